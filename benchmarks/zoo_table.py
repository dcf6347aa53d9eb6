"""The zoo's rows as Markdown: a summary, what falls short, and one line a network."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
TIMED = ("construction", "forward", "capture", "convert")
WORST = 10  # of the networks over the limit, by name in the summary
LIMIT = 2  # capture should cost no more than this, times construction plus one forward pass

INTRODUCTION = """Written by `make bench-zoo`. Random weights, nothing downloaded, small images \
(64 to 256 pixels), batches of two; what each check requires stands in `tests/zoo/checks.py`. \
"Does not apply" is where PyTorch cannot trace or script the original, or the original itself \
refuses another batch or image size. A check that a network was not yet given is in no column. \
MACs (multiply-adds) are those of the whole network for one image, measured before, predicted by \
the plan at ranks 1 to 4 and, at rank 1, checked against PyTorch's FlopCounterMode. "Found" counts \
convolutions of every kind, "eligible" those that can be separated, "rewritten" those that rank 1 \
makes cheaper. Seconds are CPU seconds of one thread; "convert" includes a capture of its own."""


def document(rows: Sequence[Row], checks: Iterable[str]) -> str:
    """The whole page."""
    checks = list(checks)
    parts = ["# The zoo, measured", INTRODUCTION, summary(rows, checks)]
    parts += ["## What falls short", short(rows)]
    parts += ["## Every network", table(rows)]
    return "\n\n".join(parts) + "\n"


def summary(rows: Sequence[Row], checks: Iterable[str]) -> str:
    """How many passed each check, and which front ends captured them."""
    lines = ["| check | networks | passed | does not apply | failed |", "|---|---|---|---|---|"]
    for check in checks:
        verdicts = [row["checks"][check] for row in rows if check in row["checks"]]
        failed = sum(v[0] == "failed" for v in verdicts)
        apart = sum(v[0] == "ok" and inapplicable(v[1]) for v in verdicts)
        passed = len(verdicts) - failed - apart
        lines.append(f"| {words(check)} | {len(verdicts)} | {passed} | {apart} | {failed} |")
    ends = Counter(row["front_end"] for row in rows if "front_end" in row)
    sources = Counter(row["source"] for row in rows)
    families = len({(row["source"], row["family"]) for row in rows})
    lines += [
        "",
        f"{len(rows)} networks of {families} families: "
        + ", ".join(f"{count} of {source}" for source, count in sources.items())
        + ". Front ends: "
        + ", ".join(f"{end} {count}" for end, count in ends.most_common())
        + ".",
        "",
        cost(rows),
    ]
    return "\n".join(lines)


def cost(rows: Sequence[Row]) -> str:
    """Capture beside construction plus one forward pass, in CPU seconds of one thread."""
    timed = [row for row in rows if "capture" in row.get("seconds", {})]
    if not timed:
        return ""
    ratios = sorted((_cost_ratio(row), row["name"]) for row in timed)
    over = [f"{name} ({ratio:.1f})" for ratio, name in reversed(ratios) if ratio > LIMIT]
    told = (
        f"Capture, in units of construction plus one forward pass of two images: median "
        f"{ratios[len(ratios) // 2][0]:.2f}; at most {LIMIT} for {len(ratios) - len(over)} of "
        f"{len(ratios)} networks"
    )
    shown = ", ".join(over[:WORST]) + (f", and {len(over) - WORST} more" * (len(over) > WORST))
    return told + (f"; above it: {shown}." if over else ".")


def _cost_ratio(row: Row) -> float:
    seconds = row["seconds"]
    ratio: float = seconds["capture"] / (seconds["construction"] + seconds["forward"])
    return ratio


def inapplicable(remark: str) -> bool:
    """Whether a remark says that PyTorch, or the architecture, does not do that at all."""
    starts = ("PyTorch cannot", "the architecture fixes", "the original refuses", "batch ")
    return remark.startswith((*starts, "another batch: the script itself"))


def short(rows: Sequence[Row]) -> str:
    """Every failure by name with the last line of what was raised, then remarks worth reading."""
    failures = [
        f"- `{row['name']}`, {', '.join(map(words, names))}: {told}"
        for row in rows
        for told, names in _failures(row).items()
    ]
    remarks = [
        f"- `{row['name']}`, {words(check)}: {verdict[1]}"
        for row in rows
        for check, verdict in row["checks"].items()
        if verdict[0] == "ok" and check in ("switches_mode", "another_batch", "full_rank")
        and verdict[1]
    ]  # fmt: skip
    told = ["\n".join(failures) or "Nothing."]
    if remarks:
        told += ["Passed with a remark:", "\n".join(remarks)]
    return "\n\n".join(told)


def _failures(row: Row) -> dict[str, list[str]]:
    """What was raised -> the checks that it stopped."""
    grouped: dict[str, list[str]] = {}
    for check, verdict in row["checks"].items():
        if verdict[0] == "failed":
            grouped.setdefault(last_line(verdict[1]), []).append(check)
    return grouped


def table(rows: Sequence[Row]) -> str:
    """One line a network. Seconds are CPU seconds of one thread."""
    head = (
        "| network | front end | found | eligible | rewritten | MACs, M | r=1 | r=2 | r=3 | r=4 "
        "| construct s | forward s | capture s | convert s | failed |"
    )
    lines = [head, "|---|---|" + "---:|" * 12 + "---|"]
    for row in rows:
        failed = ", ".join(words(c) for c, v in row["checks"].items() if v[0] == "failed")
        macs = [row.get("macs"), *(row.get("macs_after", {}).get(str(r)) for r in (1, 2, 3, 4))]
        seconds = {**row.get("seconds", {}), "convert": row.get("convert_seconds")}
        cells = [
            row["name"],
            row.get("front_end", ""),
            *(str(row.get(what, "")) for what in ("found", "eligible", "rewritten")),
            *("" if n is None else f"{n / 1e6:.1f}" for n in macs),
            *(_seconds(seconds.get(what)) for what in TIMED),
            failed,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def words(check: str) -> str:
    """`another_batch` -> "another batch"."""
    return check.replace("_", " ")


def last_line(text: str) -> str:
    """The last line of a traceback, short enough for a list, without this machine's folders."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    return re.sub(r"[^\s`(]*/site-packages/", "", lines[-1])[:300]
