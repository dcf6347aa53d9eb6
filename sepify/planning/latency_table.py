"""How long each convolution and each candidate for it takes on a target, kept in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from sepify.errors import FileError, PlanError
from sepify.planning.measurements import Candidate, Layer, Measurements
from sepify.storage import read_document, write_json

FORMAT = "sepify-latency-table"
VERSION = 1


@dataclass(frozen=True)
class LatencyTable:
    """Seconds for one image by what was timed: a convolution's geometry and what is done to it, as
    in "64x64x3x3 /1 @28x28: dw-pw at rank 2". `machine` is the CPU that they were taken on. A
    candidate that is not there was not timed, for one of a lower rank was already slower than the
    convolution itself."""

    target: str
    machine: str
    threads: int = 1
    seconds: Mapping[str, float] = field(default_factory=dict)


def save_table(table: LatencyTable, path: Path | str) -> None:
    """Write JSON, whole or not at all, in a stable order."""
    entries = dict(sorted(table.seconds.items()))
    write_json(path, {"format": FORMAT, "version": VERSION, **asdict(table), "seconds": entries})


def load_table(path: Path | str) -> LatencyTable:
    """Read one. Raises FileError if it is not JSON, something else, or damaged."""
    advice = "sepify plan --latency-table writes one"
    table = read_document(LatencyTable, path, FORMAT, VERSION, advice)
    if table.threads < 1 or any(seconds <= 0 for seconds in table.seconds.values()):
        raise FileError(f"{path} is damaged: threads and seconds are above 0; {advice}")
    return table


def check_table(table: LatencyTable, target: str, machine: str) -> None:
    """Raise PlanError unless `table` was measured on this target and this machine."""
    if table.target != target:
        raise PlanError(
            f"the latency table was measured on target '{table.target}' and the budget is for "
            f"'{target}': measure another table, or change the budget"
        )
    if table.machine != machine:
        raise PlanError(
            f"the latency table was measured on another machine ({table.machine}; this is "
            f"{machine}): measure it again here"
        )


def with_latencies(
    measurements: Measurements, table: LatencyTable, keys: Mapping[str, str]
) -> Measurements:
    """`measurements` with the seconds of every candidate, without those that are no faster than the
    convolution itself: a layer of which none is faster is kept, and its reason says by how much.

    `keys` are the geometries of the convolutions by name, as the table has them.
    """
    layers = tuple(_timed(layer, table, keys) for layer in measurements.layers)
    return replace(measurements, layers=layers)


def entry(geometry: str, candidate: Candidate) -> str:
    """Under which key a candidate is in the table."""
    return f"{geometry}: {candidate.form.words}"


def _timed(layer: Layer, table: LatencyTable, keys: Mapping[str, str]) -> Layer:
    def seconds(candidate: Candidate) -> float | None:
        times = [
            table.seconds.get(entry(keys[name], candidate)) if name in keys else None
            for name in layer.names
        ]
        return None if None in times else sum(time or 0.0 for time in times)

    kept = seconds(layer.candidates[0])
    timed = [(candidate, seconds(candidate)) for candidate in layer.candidates]
    faster = tuple(
        replace(candidate, cost=replace(candidate.cost, seconds=time))
        for candidate, time in timed[1:]
        if kept is not None and time is not None and time < kept
    )
    first = replace(layer.candidates[0], cost=replace(layer.candidates[0].cost, seconds=kept))
    reason = layer.reason
    if not faster and reason is None:
        reason = _why_not(timed[1:], kept, table.target)
    return replace(layer, candidates=(first, *faster), reason=reason)


def _why_not(
    timed: Sequence[tuple[Candidate, float | None]], kept: float | None, target: str
) -> str:
    known = [(time, candidate) for candidate, time in timed if time is not None]
    if kept is None or not known:
        return f"not timed on {target}"
    time, candidate = min(known, key=lambda pair: pair[0])
    return (
        f"slower on {target}: {candidate.form.words} takes {time * 1e3:.3f} ms and the convolution "
        f"{kept * 1e3:.3f} ms ({time / kept - 1:+.0%})"
    )
