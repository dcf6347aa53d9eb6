"""3x3 convolution of stride 1 by Winograd's minimal filtering: a tile of m x m outputs costs
(m + 2)^2 products for each pair of channels instead of 9 m^2.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308.
"""

from __future__ import annotations

from sepify.compiling.kernels.contract import Contraction, contract
from sepify.compiling.kernels.cook_toom import TAPS, TILES, CookToom, cook_toom
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv, Epilogue
from sepify.compiling.kernels.source import Kernel, Source
from sepify.compiling.kernels.strip import locate
from sepify.compiling.kernels.tiles import (
    Run,
    Tiling,
    default_unroll,
    expected_threads,
    rank_tiles,
    task_count,
    tasks_for,
    tiling_for,
)
from sepify.compiling.kernels.transforms import from_points, to_points

# Measured with AVX-512 on layers of 64 channels and 56 rows to 512 and 7.
WINOGRAD_FETCHING = (0.35, 0.2)  # see rank_tiles: V and the weights are in the second cache at best
_TRANSFORM = 4.5  # products of a vector that a point of a tile costs on its way in, and out
_WEIGHT_READS = 16  # pixels that a weight must serve, or two threads wait for it to come
_GAIN = 0.9  # of the direct one's time, or it is not worth larger weights and errors
_STRIPS = 4  # times a task's usual scratch: weights from the third cache cost more than V from it
_GOOD_TILES = 24  # of a task, or its weights come from there too often
_LEAST_TILES = 6  # of a task where there are many threads
_SPLIT_VECTORS = 4
_WHOLE = 1 << 30  # bytes of weights to pass by at a time: all, they are read once or twice
_LEAST_VECTOR_BYTES = 32  # shorter vectors have not been measured


def tile_grid(conv: Conv, m: int) -> tuple[int, int]:
    """Rows and columns of tiles that cover the output."""
    return -(-conv.out_height // m), -(-conv.out_width // m)


def tile_count(conv: Conv, m: int) -> int:
    """Tiles of one image."""
    rows, columns = tile_grid(conv, m)
    return rows * columns


def can_winograd(conv: Conv) -> bool:
    """Whether the algorithm computes `conv`."""
    window = conv.window
    plain = window.kernel == (TAPS, TAPS) and window.stride == window.dilation == (1, 1)
    return plain and conv.groups == 1


def best_tile(conv: Conv, machine: Machine) -> int:
    """The side of the tiles that are expected to be fastest, 0 for a direct convolution."""
    if machine.vector_bytes < _LEAST_VECTOR_BYTES:
        return 0
    # products for each pair of channels, and what else a tile costs in the same unit
    ends = 1 / machine.blocks(conv.channels) + 1 / machine.blocks(conv.outputs)
    extra = _TRANSFORM * ends / machine.lanes
    costs = {0: _GAIN * conv.window.area * max(conv.pixels, _WEIGHT_READS)}
    for m in TILES:
        tiles = tile_count(conv, m)
        costs[m] = (m + TAPS - 1) ** 2 * (max(tiles, _WEIGHT_READS) + tiles * extra)
    return min(costs, key=costs.__getitem__)


def winograd_knobs(conv: Conv, m: int, machine: Machine) -> Knobs:
    """The knobs that are expected to be good with tiles of m x m, without measuring."""
    v, points = machine.lanes, (m + TAPS - 1) ** 2
    blocks, out_blocks = machine.blocks(conv.channels), machine.blocks(conv.outputs)
    tiles = tile_count(conv, m)
    macs = points * tiles * blocks * v * out_blocks * v
    wanted = task_count(macs, machine)
    least = -(-tiles * machine.vector_bytes * points * blocks // (_STRIPS * machine.scratch_bytes))
    # every split transforms the input again: as many tasks as threads that are expected, not twice
    threads = expected_threads(macs, machine)
    most = max(1, out_blocks // _SPLIT_VECTORS)
    strips = 1
    while tiles >= 2 * strips * _GOOD_TILES and (strips < least or 2 * strips <= wanted):
        strips *= 2
    while tiles >= 2 * strips * _LEAST_TILES and strips * most < threads:
        strips *= 2
    count = -(-tiles // strips)
    room = min(-(-threads // strips), most)
    splits = max(n for n in range(1, room + 1) if out_blocks % n == 0)
    ranked = rank_tiles(count, out_blocks // splits, machine, fetching=WINOGRAD_FETCHING)
    pixels, vectors = ranked[0]
    unroll = default_unroll(vectors, machine)
    return Knobs(pixels, vectors, count, splits, weight_bytes=_WHOLE, unroll=unroll, winograd=m)


def winograd_kernel(conv: Conv, epilogue: Epilogue, machine: Machine, knobs: Knobs) -> Kernel:
    """Inputs X `(N, C/v, H, W, v)`, W `(O/v, (m+2)^2 * C, v)` from `pack_winograd`, B `(O/v, v)`
    and the residual R if there is one.

    A task transforms its tiles of all channels into V, which stays in the second level cache; for a
    few output vectors at a time, V times the weights, one product of matrices for each of the
    (m+2)^2 points, gives M, and M is transformed straight into the output.
    """
    v, m = machine.lanes, knobs.winograd
    toom = cook_toom(m)
    points = toom.inputs**2
    blocks, out_blocks = machine.blocks(conv.channels), machine.blocks(conv.outputs)
    y_shape = (conv.batch, out_blocks, conv.out_height, conv.out_width, v)
    inputs = [
        machine.buffer("X", (conv.batch, blocks, conv.height, conv.width, v)),
        machine.buffer("W", (out_blocks, points * blocks * v, v)),
        machine.buffer("B", (out_blocks, v)),
    ]
    if epilogue.residual:
        inputs.append(machine.buffer("R", y_shape))

    rows, columns = tile_grid(conv, m)
    tasks, per_task = tasks_for(knobs, rows * columns), out_blocks // knobs.splits
    tiling = tiling_for(knobs, tasks.rows, per_task, machine)

    source = Source(machine.element)
    with source.loop("task", conv.batch * tasks.count, "parallel"):
        locate(source, tasks, rows * columns)
        source.scratch("V", (points, blocks, tasks.rows, v))
        source.scratch("H", (toom.inputs, toom.inputs, v))
        with source.loop("cb", blocks), source.loop("t", tasks.rows):
            _transform_input(source, conv, toom, v, columns)
        for vectors, row in tiling.runs:
            with source.loop("vg", vectors.count):
                first = f"split*{per_task} + vg*{vectors.size} + {vectors.start}"
                source.scratch("M", (points, vectors.size, tasks.rows, v))
                one = Tiling(((Run(0, vectors.size, 1), row),))
                with source.loop("a", points):
                    _multiply(source, machine, knobs, one, conv.channels, first, out_blocks)
                with source.loop("w", vectors.size), source.loop("t", tasks.rows):
                    _transform_output(source, conv, epilogue, toom, v, columns, first)
    return source.kernel("winograd", inputs, y_shape)


def _multiply(
    source: Source,
    machine: Machine,
    knobs: Knobs,
    tiling: Tiling,
    channels: int,
    first: str,
    out_blocks: int,
) -> None:
    """Point `a` of all tiles of the output vectors from `first` on, into M."""
    lanes, blocks = machine.lanes, machine.blocks(channels)
    work = Contraction(
        [("cb", blocks)],
        lanes,
        min(knobs.unroll, lanes),
        f"(a*{blocks} + cb)*{lanes} + step",
        lambda _row, column: f"V[a, cb, {column}, step]",
        lambda vector, _row, column: f"a, {vector} - ({first}), {column}, q",
        Epilogue(),
        out_blocks,
        machine.tail(channels),
        into="M",
        partial=True,
    )
    contract(source, machine, tiling, 1, first, work, knobs.weight_bytes)


def _transform_input(source: Source, conv: Conv, toom: CookToom, lanes: int, columns: int) -> None:
    """Tile `t` of block `cb` into V, columns and then rows."""
    n = toom.inputs
    _place(source, toom, columns)
    top, left = conv.window.padding[0], conv.window.padding[1]
    source.line(f"y0 = T.meta_var(oy - {top})")
    source.line(f"x0 = T.meta_var(ox - {left})")

    def load(i: int) -> str:
        return f"X[image, cb, y0 + {i}, x0 + j, q]"

    zero = source.element.literal(0)

    def guarded(i: int) -> str:
        inside = f"y0 + {i} >= 0 and y0 + {i} < {conv.height} and x0 + j >= 0"
        return f"T.if_then_else({inside} and x0 + j < {conv.width}, {load(i)}, {zero})"

    inside = f"y0 >= 0 and y0 <= {conv.height - n} and x0 >= 0 and x0 <= {conv.width - n}"
    for head, read in ((f"if {inside}", load), ("else", guarded)):
        with source.block(head), source.loop("j", n):
            to_points(source, lanes, toom.input, read, lambda i: f"H[{i}, j, q]")
    with source.loop("i", n):
        to_points(
            source,
            lanes,
            toom.input,
            lambda j: f"H[i, {j}, q]",
            lambda j: f"V[i*{n} + {j}, cb, t, q]",
        )


def _transform_output(
    source: Source,
    conv: Conv,
    epilogue: Epilogue,
    toom: CookToom,
    lanes: int,
    columns: int,
    first: str,
) -> None:
    """Tile `t` of the output vector `first + w`, from M."""
    n, m = toom.inputs, len(toom.output)
    _place(source, toom, columns)
    with source.loop("j", n):
        from_points(
            source,
            lanes,
            toom.output,
            lambda i: f"M[{n}*{i} + j, w, t, q]",
            lambda k, value: source.vector(lanes, f"H[{k}, j, q]", value),
        )
    always = conv.out_width - (columns - 1) * m  # columns of the last tile that are on the map

    def store(k: int, value: str) -> None:
        index = f"image, {first} + w, oy + i, ox + {k}, q"
        result = epilogue.apply(source.element, f"(B[{first} + w, q] + ({value}))", f"R[{index}]")
        if k < always:
            source.vector(lanes, f"Y[{index}]", result)
            return
        with source.block(f"if ox + {k} < {conv.out_width}"):
            source.vector(lanes, f"Y[{index}]", result)

    with source.loop("i", m), source.block(f"if oy + i < {conv.out_height}"):
        from_points(source, lanes, toom.output, lambda j: f"H[i, {j}, q]", store)


def _place(source: Source, toom: CookToom, columns: int) -> None:
    """Where the outputs of tile `t` begin; those of the last row and column may leave the map."""
    m = len(toom.output)
    source.line(f"oy = T.meta_var((row0 + t) // {columns} * {m})")
    source.line(f"ox = T.meta_var((row0 + t) % {columns} * {m})")
