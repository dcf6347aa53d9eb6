"""Depthwise rows: every channel filtered on its own, a vector of channels at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sepify.compiling.kernels.axes import row_tiles, tasks
from sepify.compiling.kernels.kind import Extents, Kind, Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.reference import in_turn
from sepify.compiling.kernels.shapes import Conv, Epilogue
from sepify.compiling.kernels.source import Buffer, Kernel, Source
from sepify.compiling.kernels.strip import locate
from sepify.compiling.kernels.tiles import Run, even_runs, task_count, tasks_for
from sepify.compiling.kernels.weights import Array, pack_bias, pack_depthwise

_ROW_TILE = 8  # pixels of one row kept in registers: best or nearly so with AVX2 and AVX-512


@dataclass(frozen=True)
class Fold:
    """What a window does with the inputs under it: `start`, then `step` for each, then `finish`;
    all of it for each of `terms` maps, of which `term` is the number."""

    start: str
    step: Callable[[str, str, str], str]  # (accumulator, input, flat window position) -> text
    finish: Callable[[str, str], str]  # (accumulator, column) -> text
    terms: int = 0  # 0: `term`, if the texts use it, is a loop further out


def default_row_tile(machine: Machine) -> int:
    """Pixels of one row that are filtered at a time."""
    return min(_ROW_TILE, machine.most_local)


def plane_knobs(conv: Conv, machine: Machine) -> Knobs:
    """The knobs that are expected to be good, without measuring."""
    blocks = machine.blocks(conv.channels)
    work = conv.pixels * blocks * machine.lanes * conv.window.area  # of an image, multiply-adds
    wanted = min(task_count(work, machine), blocks)
    splits = max(n for n in range(1, wanted + 1) if blocks % n == 0)
    strips = max(1, min(task_count(work, machine) // splits, conv.out_height // 4))
    rows = -(-conv.out_height // strips)
    return Knobs(1, 1, rows, splits, row_tile=default_row_tile(machine))


def depthwise_kernel(
    conv: Conv, epilogue: Epilogue, machine: Machine, knobs: Knobs | None = None
) -> Kernel:
    """Multiplier 1. Inputs X `(N, C/v, H, W, v)`, W `(C/v, kh*kw, v)`, B `(C/v, v)`, R if any."""
    v = machine.lanes
    blocks = machine.blocks(conv.channels)
    y_shape = (conv.batch, blocks, conv.out_height, conv.out_width, v)
    inputs = [
        machine.buffer("X", (conv.batch, blocks, conv.height, conv.width, v)),
        machine.buffer("W", (blocks, conv.window.area, v)),
        machine.buffer("B", (blocks, v)),
    ]
    if epilogue.residual:
        inputs.append(machine.buffer("R", y_shape))
    fold = Fold(
        "B[cb, q]",
        lambda acc, x, position: f"{acc} + {x} * W[cb, {position}, q]",
        lambda acc, column: epilogue.apply(machine.element, acc, f"R[image, cb, row, {column}, q]"),
    )
    return plane_kernel("depthwise", conv, fold, inputs, machine, knobs)


def plane_kernel(
    kind: str,
    conv: Conv,
    fold: Fold,
    inputs: list[Buffer],
    machine: Machine,
    knobs: Knobs | None = None,
) -> Kernel:
    """A kernel that works on each block of channels by itself: depthwise convolution, pooling."""
    v = machine.lanes
    blocks = machine.blocks(conv.channels)
    knobs = knobs or plane_knobs(conv, machine)
    tasks = tasks_for(knobs, conv.out_height)
    per_task = blocks // tasks.splits

    def target(column: str) -> str:
        return f"Y[image, cb, row, {column}, q]"

    source = Source(machine.element)
    with source.loop("task", conv.batch * tasks.count, "parallel"):
        locate(source, tasks, conv.out_height)
        with source.loop("co", per_task):
            source.line(f"cb = T.meta_var(split*{per_task} + co)")
            with source.loop("r", tasks.rows):
                source.line("row = T.meta_var(row0 + r)")
                row_of_windows(source, conv, knobs.row_tile, machine.lanes, fold, "row", target)
    return source.kernel(kind, inputs, (conv.batch, blocks, conv.out_height, conv.out_width, v))


def row_of_windows(
    source: Source,
    conv: Conv,
    row_tile: int,
    lanes: int,
    fold: Fold,
    row: str,
    target: Callable[[str], str],
    value: Callable[[str, str], str] = lambda y, x: f"X[image, cb, {y}, {x}, q]",
) -> None:
    """One output row of the block `cb` of `image`, columns that leave the map resolved here;
    `row_tile` pixels at a time. `value(y, x)` is the input there, in which `ky` is the window's
    row."""
    for run in _column_runs(conv, row_tile):
        with source.loop("po", run.count):
            _tile(source, conv, lanes, fold, row, run, target, value)


def _tile(
    source: Source,
    conv: Conv,
    lanes: int,
    fold: Fold,
    row: str,
    run: Run,
    target: Callable[[str], str],
    value: Callable[[str, str], str],
) -> None:
    window = conv.window
    top, left = window.padding[0], window.padding[1]
    column = f"po*{run.size} + {run.start}"
    acc = f"acc[m*{lanes} + q]"
    source.local("acc", (run.size * lanes,))
    with source.loop("m", run.size, "unroll"):
        source.vector(lanes, acc, fold.start)
    y = f"({row})*{window.stride[0]} + ky*{window.dilation[0]} - {top}"
    terms = f"for term in range({fold.terms})" if fold.terms else ""
    leaves = top or window.padding[2]
    inside = f"if {y} >= 0 and {y} < {conv.height}" if leaves else ""
    with source.optional(terms), source.loop("ky", window.kernel[0]), source.optional(inside):
        for kx in range(window.kernel[1]):
            shift = kx * window.dilation[1] - left
            first, last = _valid(conv, run, shift)
            if first >= last:
                continue
            x = f"({column} + m)*{window.stride[1]} + {shift}"
            with source.block(f"for m in T.unroll({first}, {last})"):
                position = f"ky*{window.kernel[1]} + {kx}"
                source.vector(lanes, acc, fold.step(acc, value(y, x), position))
        if leaves:
            source.line("T.evaluate(0)")  # all taps may lie outside
    with source.loop("m", run.size, "unroll"):
        source.vector(lanes, target(f"{column} + m"), fold.finish(acc, f"{column} + m"))


def _valid(conv: Conv, run: Run, shift: int) -> tuple[int, int]:
    """The pixels of a tile whose input column, moved by `shift`, lies on the map. A run of several
    tiles never leaves it."""
    if run.count > 1:
        return 0, run.size
    stride = conv.window.stride[1]
    inside = [m for m in range(run.size) if 0 <= (run.start + m) * stride + shift < conv.width]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)


def _column_runs(conv: Conv, largest: int) -> list[Run]:
    """Tiles of a row; only tiles that stay on the map are joined into a loop."""
    window = conv.window
    reach = (window.kernel[1] - 1) * window.dilation[1]
    tiles = [
        Run(run.start + i * run.size, run.size, 1)
        for run in even_runs(conv.out_width, largest)
        for i in range(run.count)
    ]
    joined: list[Run] = []
    was_inside = False
    for tile in tiles:
        low = tile.start * window.stride[1] - window.padding[1]
        high = (tile.start + tile.size - 1) * window.stride[1] - window.padding[1] + reach
        inside = low >= 0 and high < conv.width
        if inside and was_inside and joined[-1].size == tile.size:
            joined[-1] = Run(joined[-1].start, tile.size, joined[-1].count + 1)
        else:
            joined.append(tile)
        was_inside = inside
    return joined


def _pack(
    _workload: Workload, lanes: int, parameters: Sequence[Array], _knobs: Knobs
) -> list[Array]:
    weight, bias = parameters
    return [pack_depthwise(weight, 1, lanes)[0], pack_bias(bias, lanes)]


def plane_extents(workload: Workload, machine: Machine, knobs: Knobs) -> Extents:
    """Those of a kernel that filters rows of one vector of channels after another."""
    conv, default = workload.conv, workload.default_knobs(machine)
    pixels, vectors = knobs.rows * conv.out_width, machine.blocks(conv.outputs)
    return Extents(pixels, vectors, conv.out_height, default)


DEPTHWISE = Kind(
    "depthwise",
    lambda workload, machine: plane_knobs(workload.conv, machine),
    lambda workload, machine, knobs: depthwise_kernel(
        workload.conv, workload.epilogue, machine, knobs
    ),
    _pack,
    in_turn,
    (row_tiles, tasks),
    plane_extents,
)
