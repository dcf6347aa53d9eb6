"""Convolution with few channels in a group, where groups are not whole vectors: depthwise with a
multiplier, the `pw-dw` order at rank > 1 (`groups=N`, r channels each), ResNeXt's small groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sepify.compiling.kernels.axes import row_tiles, tasks
from sepify.compiling.kernels.depthwise import default_row_tile, plane_extents
from sepify.compiling.kernels.kind import Kind, Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.reference import in_turn
from sepify.compiling.kernels.shapes import Conv, Epilogue
from sepify.compiling.kernels.source import Kernel, Source
from sepify.compiling.kernels.strip import copy_strip, locate
from sepify.compiling.kernels.tiles import even_runs, task_count, tasks_for
from sepify.compiling.kernels.weights import Array, pack_bias, pack_grouped


def grouped_knobs(conv: Conv, machine: Machine) -> Knobs:
    """The knobs that are expected to be good, without measuring. Here a task computes all strips of
    its output vectors, `rows` at a time."""
    depth, out_blocks = conv.channels // conv.groups, machine.blocks(conv.outputs)
    strip_width = conv.window.span(1, conv.out_width)
    row_bytes = machine.vector_bytes * depth * conv.window.stride[0] * strip_width
    strips = -(-conv.out_height // max(1, machine.scratch_bytes // row_bytes))
    wanted = min(task_count(conv.macs // conv.batch, machine), out_blocks)
    splits = max(n for n in range(1, wanted + 1) if out_blocks % n == 0)
    rows = -(-conv.out_height // strips)
    return Knobs(1, 1, rows, splits, row_tile=default_row_tile(machine))


def grouped_kernel(
    conv: Conv, epilogue: Epilogue, machine: Machine, knobs: Knobs | None = None
) -> Kernel:
    """Inputs X `(N, C/v, H, W, v)`, W `(O/v, depth, kh*kw, v)`, B `(O/v, v)`, R if any.

    A task gathers, for each of its output vectors, the input channel that each lane reads; after
    that the lanes work side by side as in a depthwise convolution, `depth = C/groups` times.
    """
    v, window = machine.lanes, conv.window
    depth, per_group = conv.channels // conv.groups, conv.outputs // conv.groups
    blocks, out_blocks = machine.blocks(conv.channels), machine.blocks(conv.outputs)
    y_shape = (conv.batch, out_blocks, conv.out_height, conv.out_width, v)
    inputs = [
        machine.buffer("X", (conv.batch, blocks, conv.height, conv.width, v)),
        machine.buffer("W", (out_blocks, depth, window.area, v)),
        machine.buffer("B", (out_blocks, v)),
    ]
    if epilogue.residual:
        inputs.append(machine.buffer("R", y_shape))

    knobs = knobs or grouped_knobs(conv, machine)
    tasks = tasks_for(replace(knobs, splits=1), conv.out_height)
    chunks = knobs.splits
    strip_width = window.span(1, conv.out_width)

    source = Source(machine.element)
    with source.loop("chunk", conv.batch * chunks, "parallel"):
        source.scratch("S", (depth, window.span(0, tasks.rows), strip_width, v))
        with source.loop("ob", out_blocks // chunks), source.loop("strip", tasks.strips):
            source.line(f"task = T.meta_var(chunk // {chunks} * {tasks.strips} + strip)")
            source.line(f"block = T.meta_var(chunk % {chunks} * {out_blocks // chunks} + ob)")
            locate(source, tasks, conv.out_height)
            # lanes past the last output read channel 0; their weights are zero
            lane = f"T.min(block*{v} + q, {conv.outputs - 1})"
            channel = f"({lane}//{per_group}*{depth} + ic)"
            copy_strip(
                source,
                conv,
                tasks.rows,
                ("ic", depth),
                v,
                lambda row, column: f"S[ic, {row}, {column}, q]",
                lambda y, x: f"X[image, {channel}//{v}, {y}, {x}, {channel}%{v}]",
            )
            with source.loop("row", tasks.rows):
                for run in even_runs(conv.out_width, knobs.row_tile):
                    with source.loop("po", run.count):
                        _tile(source, conv, v, depth, run.size, run.start, epilogue)
    return source.kernel("grouped", inputs, y_shape)


def _tile(
    source: Source,
    conv: Conv,
    lanes: int,
    depth: int,
    size: int,
    start: int,
    epilogue: Epilogue,
) -> None:
    window = conv.window
    acc = f"acc[m*{lanes} + q]"
    column = f"(po*{size} + {start} + m)"
    source.local("acc", (size * lanes,))
    with source.loop("m", size, "unroll"):
        source.vector(lanes, acc, "B[block, q]")
    y = f"row*{window.stride[0]} + ky*{window.dilation[0]}"
    x = f"{column}*{window.stride[1]} + kx*{window.dilation[1]}"
    weight = f"W[block, ic, ky*{window.kernel[1]} + kx, q]"
    taps = source.loop("ky", window.kernel[0]), source.loop("kx", window.kernel[1], "unroll")
    with source.loop("ic", depth), taps[0], taps[1], source.loop("m", size, "unroll"):
        source.vector(lanes, acc, f"{acc} + S[ic, {y}, {x}, q] * {weight}")
    with source.loop("m", size, "unroll"):
        index = f"image, block, row0 + row, {column}, q"
        source.vector(lanes, f"Y[{index}]", epilogue.apply(source.element, acc, f"R[{index}]"))


def _pack(
    _workload: Workload, lanes: int, parameters: Sequence[Array], _knobs: Knobs
) -> list[Array]:
    weight, bias = parameters
    return [pack_grouped(weight, lanes), pack_bias(bias, lanes)]


GROUPED = Kind(
    "grouped",
    lambda workload, machine: grouped_knobs(workload.conv, machine),
    lambda workload, machine, knobs: grouped_kernel(
        workload.conv, workload.epilogue, machine, knobs
    ),
    _pack,
    in_turn,
    (row_tiles, tasks),
    plane_extents,
)
