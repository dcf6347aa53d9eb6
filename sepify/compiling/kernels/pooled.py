"""Direct convolution of an image and the max pooling after it: the rows between them, the largest
map of most networks, stay in cache until they are pooled."""

from __future__ import annotations

from dataclasses import replace

from sepify.compiling.kernels.contract import Contraction, contract
from sepify.compiling.kernels.dense import dense_knobs, image_reduction, read_input
from sepify.compiling.kernels.depthwise import row_of_windows
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.pooling import MAXIMUM
from sepify.compiling.kernels.shapes import Conv, Epilogue, Machine
from sepify.compiling.kernels.source import Buffer, Kernel, Source
from sepify.compiling.kernels.strip import locate
from sepify.compiling.kernels.tiles import task_count, tasks_for, tiling_for

_TWICE = 0.05  # of the convolution's rows, computed by two tasks


def can_pool(pool: Conv) -> bool:
    """Whether rows of this pooling can be taken one after another, none of what lies between them
    left out or above the map but for what its first window shares with the one before."""
    window = pool.window
    apart = window.dilation == (1, 1) and window.kernel[0] >= window.stride[0]
    return apart and window.padding[0] <= _overlap(pool)


def pooled_conv_knobs(conv: Conv, pool: Conv, machine: Machine) -> Knobs:
    """The knobs that are expected to be good, without measuring; `rows` are pooled ones."""
    # neighbouring tasks share rows: as many tasks as threads that are expected, not twice
    wanted = min(task_count(conv.macs // conv.batch, machine), -(-machine.max_tasks // 2))
    strips = 1
    while 2 * strips <= wanted and 2 * strips * _overlap(pool) <= conv.out_height * _TWICE:
        strips *= 2
    rows = -(-pool.out_height // strips)
    return replace(dense_knobs(conv, machine, blocked=False), rows=rows, splits=1)


def pooled_conv_kernel(
    conv: Conv, pool: Conv, epilogue: Epilogue, machine: Machine, knobs: Knobs
) -> Kernel:
    """Inputs X `(N, C, H, W)`, W `(O/v, K, v)` with K over (channel, ky, kx), B `(O/v, v)`;
    `pool` is the pooling of what `conv` gives.

    A task computes `knobs.rows` pooled rows, a few at a time: the convolution's rows that they need
    and that are not there yet go to Z, below those that the last windows share with the next.
    """
    v, window = machine.lanes, conv.window
    blocks, stride, overlap = machine.blocks(conv.outputs), pool.window.stride[0], _overlap(pool)
    inputs = [
        Buffer("X", (conv.batch, conv.channels, conv.height, conv.width)),
        Buffer("W", (blocks, conv.channels * window.area, v)),
        Buffer("B", (blocks, v)),
    ]
    tasks = tasks_for(knobs, pool.out_height)
    tiling = tiling_for(knobs, conv.out_width, blocks)
    rows = _rows_at_a_time(knobs.rows, pool, 4 * v * blocks * conv.out_width, machine)
    fresh = rows * stride
    loops, unrolled, k, lane = image_reduction(conv)
    tall = _reaching(conv, pool)

    source = Source()

    def convolve(count: int, place: int) -> None:
        """`count` rows from `row0` on, to the rows of Z from `place` on."""
        x = read_input(source, tall, count, conv.channels, 1, lane, flat=False)
        work = Contraction(
            loops,
            unrolled,
            k,
            x,
            lambda vector, row, column: f"{vector}, {place} + {row}, {column}, q",
            epilogue,
            into="Z",
        )
        contract(source, v, tiling, count, "0", work, knobs.weight_bytes)

    with source.loop("task", conv.batch * tasks.count, "parallel"):
        locate(source, tasks, pool.out_height, "pooled0")
        source.scratch("Z", (blocks, overlap + fresh, conv.out_width, v))
        source.line(f"top = T.meta_var(pooled0*{stride} - {pool.window.padding[0]})")
        if overlap:
            with source.block(f"if top + {overlap} > 0"):
                source.line("row0 = T.meta_var(top)")
                convolve(overlap, 0)
        with source.loop("chunk", tasks.rows // rows):
            source.line(f"row0 = T.meta_var(top + {overlap} + chunk*{fresh})")
            convolve(fresh, overlap)
            with source.loop("cb", blocks), source.loop("r", rows):
                row_of_windows(
                    source,
                    pool,
                    knobs.row_tile,
                    v,
                    MAXIMUM,
                    f"(pooled0 + chunk*{rows} + r)",
                    lambda column: f"Y[image, cb, pooled0 + chunk*{rows} + r, {column}, q]",
                    lambda _y, x: f"Z[cb, r*{stride} + ky, {x}, q]",
                )
            if overlap:
                kept = (("cb", blocks), ("o", overlap), ("x", conv.out_width))
                with source.loop(*kept[0]), source.loop(*kept[1]), source.loop(*kept[2]):
                    source.vector(v, "Z[cb, o, x, q]", f"Z[cb, o + {fresh}, x, q]")
    shape = (conv.batch, blocks, pool.out_height, pool.out_width, v)
    return source.kernel("pooled_conv", inputs, shape)


def _overlap(pool: Conv) -> int:
    """Rows that neighbouring windows share."""
    return pool.window.kernel[0] - pool.window.stride[0]


def _rows_at_a_time(rows: int, pool: Conv, row_bytes: int, machine: Machine) -> int:
    """The most pooled rows of a task's `rows` whose input fits a task's scratch; a divisor."""
    fitting = [
        n
        for n in range(1, rows + 1)
        if rows % n == 0 and pool.window.span(0, n) * row_bytes <= machine.scratch_bytes
    ]
    return max(fitting, default=1)


def _reaching(conv: Conv, pool: Conv) -> Conv:
    """`conv` with as many rows as the windows reach, those beyond its own read from zeros: the
    pooling never looks at them."""
    height = pool.window.span(0, pool.out_height) - pool.window.padding[0]
    beyond = max(0, height - conv.out_height)
    top, left, bottom, right = conv.window.padding
    # some padding, always: rows above the map are guarded only with it
    padding = (top, left, max(1, bottom + beyond * conv.window.stride[0]), right)
    return replace(conv, window=replace(conv.window, padding=padding))
