"""The zoo: is every convolutional network captured whole, converted right, and kept whole after?

Runs the checks of `tests/zoo` over every network there, each in a process of its own with a time
limit, and measures how long capture and conversion take beside construction and one forward pass.
Each row is a JSON file in `benchmarks/out/zoo/`, so that an interrupted run goes on where it
stopped; `--table` only prints what is there and writes `benchmarks/out/zoo.md` and `zoo.json`.

    python benchmarks/zoo.py                       # what is not yet measured
    python benchmarks/zoo.py --stage capture       # one of: capture, convert, scripts, forms
    python benchmarks/zoo.py --each 2              # two of every family
    python benchmarks/zoo.py --jobs 8              # eight at once: for what passes, not for seconds
    python benchmarks/zoo.py --only timm/resnet --again
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import multiprocessing.connection
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("YOLO_OFFLINE", "true")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
import zoo_table
from zoo.checks import CHECKS, counted_macs
from zoo.entry import Entry
from zoo.registry import ENTRIES
from zoo.specimen import Specimen

from sepify.errors import UsageError
from sepify.planning.uniform import plan_uniform
from sepify.storage import read_json, write_json

OUT = Path(__file__).parent / "out"
ROWS = OUT / "zoo"
RANKS = (1, 2, 3, 4)
SCRIPTS = ("traced_and_imported", "scripted_and_imported")
FORMS = tuple(name for name in CHECKS if name.startswith("saved_"))
CAPTURE = ("captured_exactly",)
STAGES = {
    "capture": CAPTURE,
    "convert": tuple(name for name in CHECKS if name not in (*CAPTURE, *SCRIPTS, *FORMS)),
    "scripts": SCRIPTS,
    "forms": FORMS,
}
Row = dict[str, Any]


def main() -> None:
    """Measure what is asked for, then write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stage", choices=STAGES, action="append", help="default: all, in order")
    parser.add_argument("--only", action="append", help="names that begin so; repeat")
    parser.add_argument("--again", action="store_true", help="measure rows anew")
    parser.add_argument("--failed", action="store_true", help="measure failed rows anew")
    parser.add_argument("--each", type=int, help="so many of every family, not all")
    parser.add_argument("--limit", type=int, default=180, help="seconds a network and stage")
    parser.add_argument("--jobs", type=int, default=1, help="networks at once; default: 1")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args()
    wanted = [
        entry
        for number, entry in _by_turns(ENTRIES.values())
        if number < (options.each or len(ENTRIES))
        and any(entry.name.startswith(start) for start in options.only or [""])
    ]
    if not options.table:
        _warm_up({entry.source for entry in wanted}, options.stage or list(STAGES))
        gc.collect()
        gc.freeze()  # what the packages hold is not collected again in every child
        for stage in options.stage or STAGES:
            _run_stage(stage, wanted, options)
    rows = [row for entry in ENTRIES.values() if (row := _read(entry))]
    write_json(OUT / "zoo.json", rows)
    (OUT / "zoo.md").write_text(zoo_table.document(rows, CHECKS))
    print(zoo_table.summary(rows, CHECKS))


def _by_turns(entries: Iterable[Entry]) -> list[tuple[int, Entry]]:
    """The first of every family, then the second of each, and so on, with that number from 0: an
    interrupted run has then seen as many families as it could."""
    seen: Counter[tuple[str, str]] = Counter()
    numbered = []
    for entry in entries:
        numbered.append((seen[entry.source, entry.family], entry))
        seen[entry.source, entry.family] += 1
    return sorted(numbered, key=lambda pair: pair[0])


def _warm_up(sources: set[str], stages: Sequence[str]) -> None:
    """Import here, once, what every child would import for itself and count as construction."""
    warm = {source: entry for entry in ENTRIES.values() if (source := entry.source) in sources}
    checks_without_autograd = ("captured_exactly", "full_rank", "rank_one", "scripted_and_imported")
    wanted = [name for stage in stages for name in STAGES[stage]]
    for entry in [*warm.values(), ENTRIES["torchvision/mobilenet_v3_small"]]:
        specimen = Specimen(entry)
    for name in wanted:  # autograd starts threads: never before a fork
        if name in (*checks_without_autograd, *FORMS):
            try:
                CHECKS[name](specimen)
            except Exception as error:
                print(f"warming up, {name}: {str(error)[:300]}", flush=True)


def _run_stage(stage: str, entries: list[Entry], options: argparse.Namespace) -> None:
    running: list[Child] = []
    for number, entry in enumerate(entries, 1):
        row = _read(entry)
        done = row and all(name in row["checks"] for name in STAGES[stage])
        failed = row and any(row["checks"].get(n, ["ok"])[0] == "failed" for n in STAGES[stage])
        if done and not options.again and not (options.failed and failed):
            continue
        running = _wait(running, fewer_than=options.jobs)
        running.append(_start(entry, stage, options.limit, f"{stage} {number}/{len(entries)}"))
    _wait(running, fewer_than=1)


@dataclass(frozen=True)
class Child:
    """A network that is being measured, in a fork, which has every package imported already: a
    crash or a hang costs one row."""

    process: ForkProcess
    entry: Entry
    stage: str
    limit: int
    deadline: float  # of time.monotonic
    title: str


def _start(entry: Entry, stage: str, limit: int, title: str) -> Child:
    process = multiprocessing.get_context("fork").Process(target=_measure, args=(entry, stage))
    process.start()
    return Child(process, entry, stage, limit, time.monotonic() + limit, title)


def _wait(running: list[Child], fewer_than: int) -> list[Child]:
    """Until fewer than so many are running; those that are."""
    while len(running) >= fewer_than and running:
        multiprocessing.connection.wait([child.process.sentinel for child in running], timeout=0.5)
        over = [c for c in running if not c.process.is_alive() or time.monotonic() > c.deadline]
        for child in over:
            _finish(child)
        running = [child for child in running if child not in over]
    return running


def _finish(child: Child) -> None:
    """Say how it went; write down a crash or a hang, which the child could not."""
    told = ""
    if child.process.is_alive():
        child.process.kill()
        told = f"not done in {child.limit} s"
    child.process.join()
    if not told and child.process.exitcode:
        told = f"the process ended with code {child.process.exitcode}"
    if told:
        _add(child.entry, {}, {name: ["failed", told] for name in STAGES[child.stage]}, True)
    row = _read(child.entry)
    assert row is not None
    bad = [name for name in STAGES[child.stage] if row["checks"][name][0] == "failed"]
    told = f"FAILED {', '.join(bad)}" if bad else "ok"
    print(f"{child.title} {child.entry.name}: {told}", flush=True)


def _measure(entry: Entry, stage: str) -> None:
    torch.set_num_threads(1)
    row = _read(entry)
    if row:  # what a killed run may have left must not pass for this run's
        for name in STAGES[stage]:
            row["checks"].pop(name, None)
        write_json(_path(entry), row)
    try:
        specimen = Specimen(entry)
    except Exception:
        told = traceback.format_exc()[-1500:]
        _add(entry, {}, {name: ["failed", told] for name in STAGES[stage]})
        return
    for name in STAGES[stage]:
        start = time.process_time()
        try:
            verdict = ["ok", CHECKS[name](specimen)]
        except Exception:
            verdict = ["failed", traceback.format_exc(limit=-6)[-4000:]]
        verdict.append(round(time.process_time() - start, 2))
        _add(entry, {}, {name: verdict})
    facts = FACTS.get(stage)
    if facts is not None:
        try:
            _add(entry, {**facts(specimen), "facts_failed": ""}, {})
        except Exception:
            _add(entry, {"facts_failed": traceback.format_exc()[-1500:]}, {})


def _facts_of_capture(specimen: Specimen) -> Row:
    captured = specimen.captured
    return {
        "front_end": captured.front_end,
        "reason": captured.reason,
        "notes": list(captured.notes),
        "size": specimen.entry.size,
        "parameters": sum(p.numel() for p in specimen.model.parameters()),
        "seconds": {what: round(t, 3) for what, t in specimen.seconds.items()},
    }


def _facts_of_conversion(specimen: Specimen) -> Row:
    captured = specimen.captured
    plan = specimen.small.meta["sepify"].plan
    before = counted_macs(specimen.model, specimen.inputs)
    after = {}
    for rank in RANKS:
        try:
            planned = plan_uniform(captured.graph_module, specimen.inputs, rank=rank)
        except UsageError:  # above every layer's full rank
            break
        change = sum((d.after.macs or 0) - (d.before.macs or 0) for d in planned)
        after[str(rank)] = before + change
    return {
        "found": len(plan.decisions),
        "eligible": sum(
            1 for d in plan if d.form.rewrites or d.reason.startswith("cost would rise")
        ),
        "rewritten": len(plan.rewritten),
        "macs": before,
        "macs_after": after,
        "convert_seconds": round(specimen.seconds["convert"], 3),
    }


FACTS: dict[str, Callable[[Specimen], Row]] = {
    "capture": _facts_of_capture,
    "convert": _facts_of_conversion,
}


def _path(entry: Entry) -> Path:
    return ROWS / f"{entry.name.replace('/', '--')}.json"


def _read(entry: Entry) -> Row | None:
    return read_json(_path(entry)) if _path(entry).is_file() else None


def _add(entry: Entry, facts: Row, verdicts: Row, only_missing: bool = False) -> None:
    named = {"name": entry.name, "source": entry.source, "family": entry.family, "checks": {}}
    row = _read(entry) or named
    kept = row["checks"] if only_missing else {}
    row["checks"] = {**row["checks"], **verdicts, **kept}
    write_json(_path(entry), {**row, **facts})


if __name__ == "__main__":
    main()
