"""Direct convolution: k x k, pointwise (any stride), or in groups of whole vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sepify.compiling.kernels.axes import tasks, tiles, unrolls, weight_bytes
from sepify.compiling.kernels.contract import Contraction, contract
from sepify.compiling.kernels.cook_toom import TILES, cook_toom
from sepify.compiling.kernels.kind import Extents, Kind, Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.reference import in_turn
from sepify.compiling.kernels.shapes import Conv, Epilogue
from sepify.compiling.kernels.source import Kernel, Shape, Source
from sepify.compiling.kernels.strip import copy_strip, fetch_rows, locate
from sepify.compiling.kernels.tiles import (
    choose_tasks,
    default_unroll,
    rank_tiles,
    tasks_for,
    tiling_for,
)
from sepify.compiling.kernels.weights import Array, pack_bias, pack_dense, pack_winograd
from sepify.compiling.kernels.winograd import (
    WINOGRAD_FETCHING,
    best_tile,
    can_winograd,
    tile_count,
    winograd_kernel,
    winograd_knobs,
)

_IMAGE_WEIGHT_BYTES = 32 * 1024  # the strip of an image leaves them more of the first level cache
# the loops, how many steps the innermost has and how many are written out, and k in the weights
Reduction = tuple[list[tuple[str, int]], int, int, str]


def dense_knobs(conv: Conv, machine: Machine, *, blocked: bool = True) -> Knobs:
    """The knobs that are expected to be good, without measuring."""
    v, window = machine.lanes, conv.window
    planes, lanes = (machine.blocks(conv.channels), v) if blocked else (conv.channels, 1)
    out_blocks = machine.blocks(conv.outputs) // conv.groups
    row_bytes = 0
    if window.padded:
        element = machine.element.bytes
        row_bytes = element * lanes * planes * window.stride[0] * window.span(1, conv.out_width)
    macs = conv.macs // conv.batch
    tasks = choose_tasks(conv, out_blocks, macs, row_bytes, machine)
    columns = tasks.rows * conv.out_width if is_flat(conv) else conv.out_width
    overlapping = not blocked and window.kernel[1] > 1
    pixels, vectors = rank_tiles(columns, out_blocks // tasks.splits, machine, overlapping)[0]
    knobs = Knobs(
        pixels, vectors, tasks.rows, tasks.splits, unroll=default_unroll(vectors, machine)
    )
    return knobs if blocked else replace(knobs, weight_bytes=_IMAGE_WEIGHT_BYTES)


def is_flat(conv: Conv) -> bool:
    """Whether the pixels that are read lie one after another: tiles need not end with the row."""
    return conv.window.area == 1 and conv.window.stride == (1, 1) and not conv.window.padded


def dense_kernel(
    conv: Conv,
    epilogue: Epilogue,
    machine: Machine,
    *,
    blocked: bool = True,
    knobs: Knobs | None = None,
) -> Kernel:
    """Inputs X, W `(O/v, K, v)`, B `(O/v, v)` and the residual R if there is one.

    X is `(N, C/v, H, W, v)` with K over (block, ky, kx, lane); or, not `blocked`, `(N, C, H, W)`
    with K over (channel, ky, kx), for the few channels of an image. With groups, the channels and
    outputs of a group are whole vectors and K runs over the group's own.
    """
    v, window = machine.lanes, conv.window
    out_blocks = machine.blocks(conv.outputs)
    planes = machine.blocks(conv.channels) if blocked else conv.channels
    lanes = v if blocked else 1
    depth = planes // conv.groups * window.area * lanes
    x_shape: Shape = (conv.batch, planes, conv.height, conv.width, *((v,) if blocked else ()))
    y_shape = (conv.batch, out_blocks, conv.out_height, conv.out_width, v)

    inputs = [
        machine.buffer("X", x_shape),
        machine.buffer("W", (out_blocks, depth, v)),
        machine.buffer("B", (out_blocks, v)),
    ]
    if epilogue.residual:
        inputs.append(machine.buffer("R", y_shape))

    knobs = knobs or dense_knobs(conv, machine, blocked=blocked)
    tasks, flat = tasks_for(knobs, conv.out_height), is_flat(conv)
    rows, columns = (1, tasks.rows * conv.out_width) if flat else (tasks.rows, conv.out_width)
    per_task = out_blocks // conv.groups // tasks.splits
    overlapping = not blocked and window.kernel[1] > 1
    tiling = tiling_for(knobs, columns, per_task, machine, overlapping)
    loops, steps, unroll, k = image_reduction(conv)
    if blocked:
        loops, steps, unroll, k = _blocked_reduction(conv, planes, v, knobs.unroll)

    source = Source(machine.element)
    with source.loop("task", conv.batch * tasks.count, "parallel"):
        locate(source, tasks, conv.out_height)
        x = read_input(source, conv, tasks.rows, planes, v if blocked else 0, flat)
        copied = window.padded and conv.groups == 1
        with source.loop("g", conv.groups):
            first = f"g*{out_blocks // conv.groups} + split*{per_task}"

            def y(vector: str, row: str, column: str) -> str:
                place = f"row0 + {row}, {column}"
                if flat:
                    place = f"row0 + ({column})//{conv.out_width}, ({column})%{conv.out_width}"
                return f"image, {vector}, {place}, q"

            fetch = None
            if copied:
                fetch = fetch_rows(source, conv, tasks.rows, machine, blocked=blocked)
            tail = machine.tail(conv.channels) if blocked else 0
            work = Contraction(
                loops, steps, unroll, k, x, y, epilogue, out_blocks, tail, fetch=fetch
            )
            contract(source, machine, tiling, rows, first, work, knobs.weight_bytes)
    kind = "pointwise" if window.area == 1 else "conv"
    return source.kernel(kind, inputs, y_shape)


def image_reduction(conv: Conv) -> Reduction:
    """The reduction over an input that is not blocked."""
    height, width = conv.window.kernel
    loops = [("cb", conv.channels), ("ky", height)]
    return loops, width, width, f"(cb*{height} + ky)*{width} + step"


def _blocked_reduction(conv: Conv, planes: int, lanes: int, unroll: int) -> Reduction:
    height, width = conv.window.kernel
    loops = [("cb", planes // conv.groups), ("ky", height), ("kx", width)]
    k = f"((cb*{height} + ky)*{width} + kx)*{lanes} + step"
    return loops, lanes, min(unroll, lanes), k


def read_input(
    source: Source, conv: Conv, rows: int, planes: int, lanes: int, flat: bool
) -> Callable[[str, str], str]:
    """Copy the strip if the window is padded; the text that reads `step` of pixel (row, column): a
    lane of it, or, where the input is not blocked (`lanes` is 0), a column of the window."""
    window, blocked = conv.window, lanes > 0
    lane, kx = (", step", "kx") if blocked else ("", "step")
    block = f"g*{planes // conv.groups} + cb" if conv.groups > 1 else "cb"
    if flat:

        def pixel(_row: str, column: str) -> str:
            y, x = f"row0 + ({column})//{conv.out_width}", f"({column})%{conv.out_width}"
            return f"X[image, {block}, {y}, {x}{lane}]"

        return pixel

    def place(row: str, column: str) -> str:
        y = f"({row})*{window.stride[0]} + ky*{window.dilation[0]}"
        return f"{y}, ({column})*{window.stride[1]} + {kx}*{window.dilation[1]}{lane}"

    if not window.padded:
        return lambda row, column: (
            f"X[image, {block}, row0*{window.stride[0]} + {place(row, column)}]"
        )
    shape = (planes, window.span(0, rows), window.span(1, conv.out_width))
    source.scratch("S", (*shape, lanes) if blocked else shape)
    tail = ", q" if blocked else ""
    copy_strip(
        source,
        conv,
        rows,
        ("cb", planes),
        lanes,
        lambda row, column: f"S[cb, {row}, {column}{tail}]",
        lambda y, x: f"X[image, cb, {y}, {x}{tail}]",
    )
    return lambda row, column: f"S[{block}, {place(row, column)}]"


def _knobs(workload: Workload, machine: Machine) -> Knobs:
    tile = best_tile(workload.conv, machine) if _has_winograd(workload) else 0
    return _knobs_with(workload, tile, machine)


def _knobs_with(workload: Workload, tile: int, machine: Machine) -> Knobs:
    """The default knobs of one algorithm: Winograd's with such tiles, or, for 0, the direct one."""
    if tile:
        return winograd_knobs(workload.conv, tile, machine)
    return dense_knobs(workload.conv, machine, blocked=workload.blocked)


def _has_winograd(workload: Workload) -> bool:
    return workload.blocked and can_winograd(workload.conv)


def _source(workload: Workload, machine: Machine, knobs: Knobs) -> Kernel:
    conv, epilogue = workload.conv, workload.epilogue
    if knobs.winograd:
        return winograd_kernel(conv, epilogue, machine, knobs)
    return dense_kernel(conv, epilogue, machine, blocked=workload.blocked, knobs=knobs)


def _pack(workload: Workload, lanes: int, parameters: Sequence[Array], knobs: Knobs) -> list[Array]:
    weight, bias = parameters
    if knobs.winograd:
        return [pack_winograd(weight, lanes, knobs.winograd), pack_bias(bias, lanes)]
    return [pack_dense(weight, lanes, blocked=workload.blocked), pack_bias(bias, lanes)]


def _algorithms(workload: Workload, machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    for tile in (*TILES, 0) if _has_winograd(workload) else ():
        if tile != knobs.winograd:
            yield _knobs_with(workload, tile, machine)


def _extents(workload: Workload, machine: Machine, knobs: Knobs) -> Extents:
    conv, tile = workload.conv, knobs.winograd
    vectors = machine.blocks(conv.outputs) // conv.groups
    default = _knobs_with(workload, tile, machine)
    if tile:
        tiles = tile_count(conv, tile)
        return Extents(knobs.rows, vectors, tiles, default, fetching=WINOGRAD_FETCHING)
    pixels = knobs.rows * conv.out_width if is_flat(conv) else conv.out_width
    return Extents(pixels, vectors, conv.out_height, default)


DENSE = Kind(
    "dense",
    _knobs,
    _source,
    _pack,
    in_turn,
    (_algorithms, tiles, tasks, weight_bytes, unrolls),
    _extents,
    growth=lambda knobs: cook_toom(knobs.winograd).growth if knobs.winograd else 1.0,
)
