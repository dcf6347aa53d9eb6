"""Fully connected layers: few rows, so the weights are what costs; each is read once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sepify.compiling.kernels.axes import unrolls, weight_bytes
from sepify.compiling.kernels.contract import Contraction, contract
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.depthwise import plane_extents
from sepify.compiling.kernels.kind import Kind, Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.reference import in_turn
from sepify.compiling.kernels.shapes import Epilogue
from sepify.compiling.kernels.source import Kernel, Source
from sepify.compiling.kernels.tiles import task_count, tiling_for


def linear_knobs(batch: int, features: int, outputs: int, machine: Machine) -> Knobs:
    """The knobs that are expected to be good, without measuring."""
    blocks = machine.blocks(outputs)
    wanted = min(task_count(batch * features * outputs, machine), blocks)
    splits = max(n for n in range(1, wanted + 1) if blocks % n == 0)
    pixels = min(batch, 4)
    room = 8 if pixels == 1 else max(1, (machine.registers - 5) // pixels)
    return Knobs(pixels, min(room, blocks // splits), 1, splits, unroll=8)


def linear_kernel(
    batch: int,
    features: int,
    outputs: int,
    clip: tuple[float, float] | None,
    machine: Machine,
    knobs: Knobs | None = None,
) -> Kernel:
    """X `(N, I)`, W `(O/v, I, v)`, B `(O/v, v)` -> Y `(N, O/v, v)`: `O` padded to whole vectors."""
    v = machine.lanes
    blocks = machine.blocks(outputs)
    knobs = knobs or linear_knobs(batch, features, outputs, machine)
    chunks = knobs.splits
    per_task = blocks // chunks
    tiling = tiling_for(knobs, batch, per_task, machine)
    steps = next(n for n in (16, 8, 4, 2, 1) if n <= knobs.unroll and features % n == 0)

    source = Source(machine.element)
    with source.loop("task", chunks, "parallel"):
        work = Contraction(
            [("ko", features // steps)],
            steps,
            steps,
            f"ko*{steps} + step",
            lambda _row, column: f"X[{column}, ko*{steps} + step]",
            lambda vector, _row, column: f"{column}, {vector}, q",
            Epilogue(clip=clip),
            blocks,
        )
        contract(source, machine, tiling, 1, f"task*{per_task}", work, knobs.weight_bytes)
    inputs = [machine.buffer("X", (batch, features)), machine.buffer("W", (blocks, features, v))]
    inputs.append(machine.buffer("B", (blocks, v)))
    return source.kernel("linear", inputs, (batch, blocks, v))


def _knobs(workload: Workload, machine: Machine) -> Knobs:
    conv = workload.conv
    return linear_knobs(conv.batch, conv.channels, conv.outputs, machine)


def _source(workload: Workload, machine: Machine, knobs: Knobs) -> Kernel:
    conv, clip = workload.conv, workload.epilogue.clip
    return linear_kernel(conv.batch, conv.channels, conv.outputs, clip, machine, knobs)


def _tiles(_workload: Workload, machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    for vectors in (1, 2, 4, 8, 16):
        if vectors * knobs.pixels <= machine.registers - 4:
            yield replace(knobs, vectors=vectors)


LINEAR = Kind(
    "linear",
    _knobs,
    _source,
    DENSE.pack,  # of a layer that is not blocked
    in_turn,
    (_tiles, unrolls, weight_bytes),
    plane_extents,
)
