"""Each channel times a number of its own: a depthwise convolution of 1x1."""

from __future__ import annotations

from collections.abc import Sequence

from sepify.compiling.kernels.axes import tasks
from sepify.compiling.kernels.depthwise import plane_extents, plane_knobs
from sepify.compiling.kernels.kind import Kind, Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.reference import in_turn
from sepify.compiling.kernels.source import Kernel, Source
from sepify.compiling.kernels.strip import locate
from sepify.compiling.kernels.tiles import tasks_for
from sepify.compiling.kernels.weights import Array, pack_bias


def _knobs(workload: Workload, machine: Machine) -> Knobs:
    return plane_knobs(workload.conv, machine)


def _source(workload: Workload, machine: Machine, knobs: Knobs) -> Kernel:
    conv, v = workload.conv, machine.lanes
    blocks = machine.blocks(conv.channels)
    shape = (conv.batch, blocks, conv.height, conv.width, v)
    inputs = [
        machine.buffer("X", shape),
        machine.buffer("W", (blocks, v)),
        machine.buffer("B", (blocks, v)),
    ]
    if workload.epilogue.residual:
        inputs.append(machine.buffer("R", shape))
    cut = tasks_for(knobs, conv.height)
    per_task = blocks // cut.splits
    source = Source(machine.element)
    with source.loop("task", conv.batch * cut.count, "parallel"):
        locate(source, cut, conv.height)
        with source.loop("co", per_task), source.loop("r", cut.rows), source.loop("x", conv.width):
            block = f"split*{per_task} + co"
            place = f"image, {block}, row0 + r, x, q"
            scaled = f"X[{place}] * W[{block}, q] + B[{block}, q]"
            result = workload.epilogue.apply(machine.element, scaled, f"R[{place}]")
            source.vector(v, f"Y[{place}]", result)
    return source.kernel("scaled", inputs, shape)


def _pack(
    _workload: Workload, lanes: int, parameters: Sequence[Array], _knobs: Knobs
) -> list[Array]:
    weight, bias = parameters  # torch's: (C, 1, 1, 1) and (C,)
    return [pack_bias(weight.reshape(-1), lanes), pack_bias(bias, lanes)]


SCALED = Kind("scaled", _knobs, _source, _pack, in_turn, (tasks,), plane_extents)
