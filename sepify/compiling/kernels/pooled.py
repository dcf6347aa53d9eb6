"""Direct convolution of an image and the max pooling after it: the rows between them, the largest
map of most networks, stay in cache until they are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from sepify.compiling.kernels.axes import tasks, tiles, weight_bytes
from sepify.compiling.kernels.carried import carry_rows, strips_for
from sepify.compiling.kernels.contract import Contraction, contract
from sepify.compiling.kernels.dense import DENSE, dense_knobs, image_reduction, read_input
from sepify.compiling.kernels.depthwise import row_of_windows
from sepify.compiling.kernels.kind import Extents, Kind, Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.pooling import maximum
from sepify.compiling.kernels.reference import in_turn, max_pool
from sepify.compiling.kernels.shapes import Conv, Epilogue
from sepify.compiling.kernels.source import Kernel, Source
from sepify.compiling.kernels.strip import fetch_rows
from sepify.compiling.kernels.tiles import expected_threads, tasks_for, tiling_for


def pooled_knobs(conv: Conv, pool: Conv, machine: Machine) -> Knobs:
    """The knobs that are expected to be good, without measuring; `rows` are pooled ones."""
    strips = strips_for(conv, pool, expected_threads(conv.macs // conv.batch, machine))
    rows = -(-pool.out_height // strips)
    return replace(dense_knobs(conv, machine, blocked=False), rows=rows, splits=1)


def pooled_kernel(
    conv: Conv, pool: Conv, epilogue: Epilogue, machine: Machine, knobs: Knobs
) -> Kernel:
    """Inputs X `(N, C, H, W)`, W `(O/v, K, v)` with K over (channel, ky, kx), B `(O/v, v)`;
    `pool` is the pooling of what `conv` gives."""
    v, window = machine.lanes, conv.window
    blocks, stride = machine.blocks(conv.outputs), pool.window.stride[0]
    inputs = [
        machine.buffer("X", (conv.batch, conv.channels, conv.height, conv.width)),
        machine.buffer("W", (blocks, conv.channels * window.area, v)),
        machine.buffer("B", (blocks, v)),
    ]
    tasks = tasks_for(knobs, pool.out_height)
    tiling = tiling_for(knobs, conv.out_width, blocks, machine, window.kernel[1] > 1)
    loops, steps, unroll, k = image_reduction(conv)
    guarded = _reaching(conv, pool)
    source = Source(machine.element)

    def convolve(count: int, place: int) -> None:
        work = Contraction(
            loops,
            steps,
            unroll,
            k,
            read_input(source, guarded, count, conv.channels, 0, flat=False),
            lambda vector, row, column: f"{vector}, {place} + {row}, {column}, q",
            epilogue,
            blocks,
            into="Z",
            fetch=fetch_rows(source, guarded, count, machine, blocked=False),
        )
        contract(source, machine, tiling, count, "0", work, knobs.weight_bytes)

    def pool_row(row: str) -> None:
        with source.loop("cb", blocks):
            row_of_windows(
                source,
                pool,
                knobs.row_tile,
                v,
                maximum(machine.element),
                row,
                lambda column: f"Y[image, cb, {row}, {column}, q]",
                lambda _y, x: f"Z[cb, r*{stride} + ky, {x}, q]",
            )

    carry_rows(source, conv, pool, tasks, blocks, machine, convolve, pool_row)
    shape = (conv.batch, blocks, pool.out_height, pool.out_width, v)
    return source.kernel("pooled", inputs, shape)


def _reaching(conv: Conv, pool: Conv) -> Conv:
    """`conv` with as many rows as the windows reach, those beyond its own read from zeros: the
    pooling never looks at them."""
    height = pool.window.span(0, pool.out_height) - pool.window.padding[0]
    beyond = max(0, height - conv.out_height)
    top, left, bottom, right = conv.window.padding
    # some padding, always: rows above the map are guarded only with it
    padding = (top, left, max(1, bottom + beyond * conv.window.stride[0]), right)
    return replace(conv, window=replace(conv.window, padding=padding))


def _reference(
    workload: Workload, x: Tensor, parameters: Sequence[Tensor], residual: Tensor | None
) -> Tensor:
    return max_pool(in_turn(workload, x, parameters, residual), workload.second)


def _extents(workload: Workload, machine: Machine, _knobs: Knobs) -> Extents:
    conv, rows = workload.conv, workload.second.out_height
    default = workload.default_knobs(machine)
    return Extents(conv.out_width, machine.blocks(conv.outputs), rows, default, most_splits=1)


POOLED = Kind(
    "pooled",
    lambda workload, machine: pooled_knobs(workload.conv, workload.second, machine),
    lambda workload, machine, knobs: pooled_kernel(
        workload.conv, workload.second, workload.epilogue, machine, knobs
    ),
    DENSE.pack,
    _reference,
    (tiles, tasks, weight_bytes),
    _extents,
    recorded_as=DENSE.name,
)
