"""Other people's networks compiled for this CPU, each compared with torch on another input.

    python benchmarks/compile_zoo.py                # three of every family; can be interrupted
    python benchmarks/compile_zoo.py --only torchvision --each 1 --kinds original

Random weights, one image of the smallest size that a network takes, both as it is and converted at
rank 1. `make bench-zoo` installs the packages. Writes benchmarks/out/compile_zoo.json, one row a
network and kind; a row that is there is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import multiprocessing
import operator
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from zoo.answers import tensors
from zoo.entry import Entry
from zoo.registry import ENTRIES
from zoo.waking import waken

import sepify
from sepify.compiling.model import largest_relative_error
from sepify.storage import read_json, write_json

RESULTS = Path(__file__).parent / "out" / "compile_zoo.json"
KINDS = ("original", "rank 1")
MAX_ERROR = 1e-3  # deep networks with random weights amplify what float32 rounds
Row = dict[str, Any]


def main() -> None:
    """Compile what is asked for, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", help="names that begin so; repeat")
    parser.add_argument("--each", type=int, default=3, help="networks of every family")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--limit", type=int, default=300, help="seconds a network")
    options = parser.parse_args()
    rows: dict[str, Row] = read_json(RESULTS) if RESULTS.is_file() else {}
    for kind in options.kinds:
        for entry in choose(options.only or [""], options.each):
            key = f"{entry.name}, {kind}"
            if key not in rows:
                rows[key] = in_a_child(entry.name, kind, options.limit)
                write_json(RESULTS, rows)
                print(f"{key}: {rows[key]['verdict']}", flush=True)
    table(rows)


def choose(starts: list[str], each: int) -> list[Entry]:
    """The first `each` of every family, families by turns."""
    seen: Counter[tuple[str, str]] = Counter()
    numbered = []
    for entry in ENTRIES.values():
        number = seen[entry.source, entry.family]
        seen[entry.source, entry.family] += 1
        if number < each and any(entry.name.startswith(start) for start in starts):
            numbered.append((number, entry))
    return [entry for _, entry in sorted(numbered, key=lambda pair: pair[0])]


def in_a_child(name: str, kind: str, limit: int) -> Row:
    """A crash or a hang costs one row."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=work, args=(name, kind, sender))
    child.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(limit) else {"verdict": f"not done in {limit} s"}
    except EOFError:
        child.join()
        return {"verdict": f"the process ended with code {child.exitcode}"}
    finally:
        child.kill()
        child.join()


def work(name: str, kind: str, sender: Any) -> None:
    """Compile one network and send its row."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    try:
        sender.send(measure(ENTRIES[name], kind))
    except Exception as error:  # whatever it is, it is this network's verdict
        first = (str(error).strip().splitlines() or [""])[0]
        sender.send({"verdict": f"{type(error).__name__}: {first[:300]}"})


def measure(entry: Entry, kind: str) -> Row:
    """Compiled, and right on an input that it was not checked on."""
    torch.manual_seed(0)
    model = waken(entry.build()).eval()
    inputs, others = entry.inputs(1), entry.inputs(1, seed=1)
    if kind == "rank 1":
        model = sepify.convert(
            model, rank=1, example_inputs=inputs, solver=sepify.Solver(method="svd")
        )
    with torch.no_grad():
        want = model(*others)
    simple = isinstance(want, torch.Tensor)
    started = time.process_time()
    compiled = sepify.compile(model if simple else Tensors(model, want), inputs)
    seconds = time.process_time() - started
    want = tuple(tensors(want))
    have = compiled(*others)
    error = largest_relative_error(have, want)
    verdict = "ok" if error < MAX_ERROR else f"differs from torch by {error:.1e}"
    facts = compiled.metadata
    return {
        "verdict": verdict,
        "error": error,
        "cpu_seconds": round(seconds, 1),
        "kernels": facts.kernels,
        "given_up": facts.given_up,
        "layout_changes": facts.layout_changes,
        "peak_bytes": facts.peak_bytes,
    }


class Tensors(torch.nn.Module):
    """A network that answers with a tuple: the tensors in `answer`, which it has once given."""

    def __init__(self, network: torch.nn.Module, answer: Any) -> None:
        super().__init__()
        self.network = network
        self.places = list(places(answer))

    def forward(self, *images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The images' answers."""
        answer = self.network(*images)
        return tuple(functools.reduce(_take, place, answer) for place in self.places)


def _take(part: Any, step: Callable[[Any], Any]) -> Any:
    return step(part)


def places(answer: Any) -> Iterator[tuple[Callable[[Any], Any], ...]]:
    """The way to each tensor of a nested answer, in the order of `tensors`. Nothing is asked of the
    answer's type on the way, which a tracer's stand-in for it would not tell."""
    if isinstance(answer, torch.Tensor):
        yield ()
        return
    steps: list[Callable[[Any], Any]] = []
    if isinstance(answer, Mapping):
        steps = [operator.itemgetter(key) for key in answer]
    elif dataclasses.is_dataclass(answer):
        steps = [operator.attrgetter(field.name) for field in dataclasses.fields(answer)]
    elif isinstance(answer, (list, tuple)):
        steps = [operator.itemgetter(index) for index in range(len(answer))]
    for step in steps:
        yield from ((step, *rest) for rest in places(step(answer)))


def table(rows: dict[str, Row]) -> None:
    """What failed, by name, and sums."""
    for kind in KINDS:
        mine = {key: row for key, row in rows.items() if key.endswith(f", {kind}")}
        right = [row for row in mine.values() if row["verdict"] == "ok"]
        print(f"\n{kind}: {len(right)} of {len(mine)} compiled and right")
        if right:
            calls = Counter()
            for row in right:
                calls.update(row["kernels"])
            own = calls["own"] + calls["metaschedule"]
            print(f"  kernel calls: {dict(calls)}; own or tuned {own / calls.total():.0%}")
            print(f"  largest error {max(row['error'] for row in right):.1e}")
        for key, row in mine.items():
            if row["verdict"] != "ok":
                print(f"  {key}: {row['verdict']}")
            for name, why in row.get("given_up", {}).items():
                print(f"  {key}: plain loops for {name}: {why}")


if __name__ == "__main__":
    main()
