"""Time convolutions and what may stand in for them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, fx, nn

from sepify.errors import DeviceError
from sepify.planning.latency_table import LatencyTable, check_table, entry
from sepify.planning.measurements import Layer, Measurements
from sepify.process.progress import Progress, silent
from sepify.timing.layers import Stopwatch


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
