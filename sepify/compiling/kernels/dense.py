"""Direct convolution: k x k, pointwise (any stride), or in groups of whole vectors."""

from __future__ import annotations

from collections.abc import Callable

from sepify.compiling.kernels.contract import Contraction, contract
from sepify.compiling.kernels.shapes import Conv, Epilogue, Machine
from sepify.compiling.kernels.source import Buffer, Kernel, Shape, Source
from sepify.compiling.kernels.strip import copy_strip
from sepify.compiling.kernels.tiles import Tasks, choose_tasks, choose_tiling


def dense_kernel(
    conv: Conv, epilogue: Epilogue, machine: Machine, *, blocked: bool = True
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
        Buffer("X", x_shape),
        Buffer("W", (out_blocks, depth, v)),
        Buffer("B", (out_blocks, v)),
    ]
    if epilogue.residual:
        inputs.append(Buffer("R", y_shape))

    row_bytes = 0
    if window.padded:
        row_bytes = 4 * lanes * planes * window.stride[0] * window.span(1, conv.out_width)
    macs = conv.macs // conv.batch
    tasks = choose_tasks(conv, out_blocks // conv.groups, macs, row_bytes, 0.0, machine)
    # the pixels of a pointwise convolution lie one after another: tiles need not end with the row
    flat = window.area == 1 and window.stride == (1, 1) and not window.padded
    rows, columns = (1, tasks.rows * conv.out_width) if flat else (tasks.rows, conv.out_width)
    per_task = out_blocks // conv.groups // tasks.splits
    tiling = choose_tiling(columns, per_task, machine)

    source = Source()
    with source.loop("task", conv.batch * tasks.count, "parallel"):
        locate(source, tasks, conv.out_height)
        x = _read_input(source, conv, tasks.rows, planes, blocked, lanes, flat)
        with source.loop("g", conv.groups):
            first = f"g*{out_blocks // conv.groups} + split*{per_task}"
            if blocked:
                loops = [("cb", planes // conv.groups), ("ky", window.kernel[0])]
                loops.append(("kx", window.kernel[1]))
                unrolled = ("ci", v)
                k = f"((cb*{window.kernel[0]} + ky)*{window.kernel[1]} + kx)*{v} + ci"
            else:
                loops = [("cb", planes), ("ky", window.kernel[0])]
                unrolled = ("kx", window.kernel[1])
                k = f"(cb*{window.kernel[0]} + ky)*{window.kernel[1]} + kx"

            def y(vector: str, row: str, column: str) -> str:
                place = f"row0 + {row}, {column}"
                if flat:
                    place = f"row0 + ({column})//{conv.out_width}, ({column})%{conv.out_width}"
                return f"image, {vector}, {place}, q"

            work = Contraction(loops, unrolled, k, x, y, epilogue)
            contract(source, v, tiling, rows, first, work)
    kind = "pointwise" if window.area == 1 else "conv"
    return source.kernel(kind, inputs, y_shape)


def locate(source: Source, tasks: Tasks, height: int) -> None:
    """`task` -> image, first row of the strip, part of the output channels."""
    source.line(f"image = T.meta_var(task // {tasks.count})")
    source.line(f"split = T.meta_var(task % {tasks.splits})")
    start = f"(task // {tasks.splits}) % {tasks.strips} * {tasks.rows}"
    if tasks.strips * tasks.rows > height:
        start = f"T.min({start}, {height - tasks.rows})"
    source.line(f"row0 = T.meta_var({start})")


def _read_input(
    source: Source, conv: Conv, rows: int, planes: int, blocked: bool, lanes: int, flat: bool
) -> Callable[[str, str], str]:
    """Copy the strip if the window is padded; the text that reads pixel (row, column)."""
    window = conv.window
    lane = ", ci" if blocked else ""
    block = f"g*{planes // conv.groups} + cb" if conv.groups > 1 else "cb"
    if flat:

        def pixel(_row: str, column: str) -> str:
            y, x = f"row0 + ({column})//{conv.out_width}", f"({column})%{conv.out_width}"
            return f"X[image, {block}, {y}, {x}{lane}]"

        return pixel

    def place(row: str, column: str) -> str:
        y = f"({row})*{window.stride[0]} + ky*{window.dilation[0]}"
        return f"{y}, ({column})*{window.stride[1]} + kx*{window.dilation[1]}{lane}"

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
