"""How long each convolution and each form of it takes on a target: timed, and kept in a file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from sepify.errors import DeviceError, FileError, PlanError
from sepify.planning.candidates import Candidate, Layer, Measurements
from sepify.process.progress import Progress, silent
from sepify.storage import read_document, write_json
from sepify.timing.layers import Stopwatch

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


def measure_latencies(
    original: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    measurements: Measurements,
    target: str,
    stopwatch: Stopwatch,
    known: LatencyTable | None = None,
    save: Callable[[LatencyTable], None] | None = None,
    progress: Progress = silent,
) -> tuple[LatencyTable, dict[str, str]]:
    """A table for every convolution of `original`, one thread, one image; and the geometry of each
    by name. `known` is gone on from, `save` called after each geometry, so that nothing is timed
    twice. The steps of a family are timed upwards until one is no faster than the convolution.

    Raises PlanError for a `known` table of another target or machine, DeviceError where the board
    that `stopwatch` times on is lost.
    """
    table = known or LatencyTable(target, stopwatch.machine)
    check_table(table, target, stopwatch.machine)
    shapes = _input_shapes(original, inputs)
    keys = {name: _geometry(conv, shape) for name, (conv, shape) in shapes.items()}
    layers = {name: layer for layer in measurements.layers for name in layer.names}
    shapes = {name: found for name, found in shapes.items() if name in layers}
    for number, (name, (conv, shape)) in enumerate(shapes.items()):
        progress(f"timing {name} on {target}", number, len(shapes))
        if entry(keys[name], layers[name].candidates[0]) in table.seconds:
            continue
        try:
            seconds = _time_layer(conv, shape, keys[name], layers[name], stopwatch)
        except DeviceError as error:
            kept = "" if save is None else "; the latency table has what was timed until then"
            raise DeviceError(f"{error}{kept}") from error
        table = replace(table, seconds={**table.seconds, **seconds})
        if save is not None:
            save(table)
    return table, keys


def _time_layer(
    conv: nn.Conv2d, shape: torch.Size, geometry: str, layer: Layer, stopwatch: Stopwatch
) -> dict[str, float]:
    kept, *others = layer.candidates
    x = torch.randn(1, *shape[1:], generator=torch.Generator().manual_seed(0))
    standing = stopwatch.build(kept.form.stand_in(conv).eval(), x)
    found: dict[str, float] = {}
    live = {candidate.form.family for candidate in others}
    for step in sorted({candidate.form.step for candidate in layer.candidates}):
        tried = [c for c in others if c.form.step == step and c.form.family in live]
        if not tried and found:
            continue
        built = [stopwatch.build(c.form.stand_in(conv).eval(), x) for c in tried]
        base, *times = stopwatch.medians([standing, *built])
        first = found.setdefault(entry(geometry, kept), base)
        for candidate, time in zip(tried, times, strict=True):
            # by their ratio in one race: the machine may be slower now than it was then
            found[entry(geometry, candidate)] = first * time / base
            if time >= base:
                live.discard(candidate.form.family)
    return found


def _input_shapes(
    original: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> dict[str, tuple[nn.Conv2d, torch.Size]]:
    """Every Conv2d that is called, in order, with the shape of its first input."""
    found: dict[str, tuple[nn.Conv2d, torch.Size]] = {}

    def note(name: str, module: nn.Module, args: tuple[Tensor, ...], _output: object) -> None:
        if isinstance(module, nn.Conv2d) and args:
            found.setdefault(name, (module, args[0].shape))

    network = copy.deepcopy(original).eval()
    for name, module in network.named_modules(remove_duplicate=False):
        if type(module).forward is nn.Conv2d.forward:
            module.register_forward_hook(partial(note, name))
    with torch.no_grad():
        network(*inputs)
    return found


def _geometry(conv: nn.Conv2d, shape: torch.Size) -> str:
    """ "64x64x3x3 /1,1 +1,1 *1,1 g1 @28x28": weight, stride, padding, dilation, groups, input."""
    parts = [
        "x".join(map(str, conv.weight.shape)),
        "/" + ",".join(map(str, conv.stride)),
        "+" + (conv.padding if isinstance(conv.padding, str) else ",".join(map(str, conv.padding))),
        "*" + ",".join(map(str, conv.dilation)),
        f"g{conv.groups}",
        f"@{shape[-2]}x{shape[-1]}",
    ]
    return " ".join(parts)
