"""Depthwise and pointwise in one kernel: a strip of depthwise rows stays in cache until the
pointwise convolution has read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sepify.compiling.kernels.axes import row_tiles, tasks, tiles, unrolls, weight_bytes
from sepify.compiling.kernels.contract import Contraction, contract
from sepify.compiling.kernels.depthwise import Fold, default_row_tile, row_of_windows
from sepify.compiling.kernels.kind import Extents, Kind, Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.reference import in_turn
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.source import Kernel, Source
from sepify.compiling.kernels.strip import fetch_rows, locate
from sepify.compiling.kernels.tiles import (
    choose_tasks,
    default_unroll,
    rank_tiles,
    tasks_for,
    tiling_for,
)
from sepify.compiling.kernels.weights import (
    Array,
    pack_bias,
    pack_depthwise,
    pack_depthwise_bias,
    pack_terms,
)


def separable_knobs(conv: Conv, rank: int, outputs: int, machine: Machine) -> Knobs:
    """The knobs that are expected to be good, without measuring."""
    depth, out_blocks = rank * machine.blocks(conv.channels), machine.blocks(outputs)
    macs = conv.pixels * rank * conv.channels * (conv.window.area + outputs)  # of one image
    row_bytes = machine.vector_bytes * depth * conv.out_width
    tasks = choose_tasks(conv, out_blocks, macs, row_bytes, machine, repeated=True)
    columns, per_task = tasks.rows * conv.out_width, out_blocks // tasks.splits
    pixels, vectors = rank_tiles(columns, per_task, machine)[0]
    return Knobs(
        pixels,
        vectors,
        tasks.rows,
        tasks.splits,
        unroll=default_unroll(vectors, machine),
        row_tile=default_row_tile(machine),
    )


def separable_kernel(
    conv: Conv,
    rank: int,
    outputs: int,
    middle: Epilogue,
    epilogue: Epilogue,
    machine: Machine,
    knobs: Knobs | None = None,
) -> Kernel:
    """`conv` is the depthwise part with depth multiplier `rank`, `outputs` the pointwise part's.

    Inputs X `(N, C/v, H, W, v)`; F `(rank, C/v, kh*kw, v)` and G `(rank, C/v, v)`, the depthwise
    weight and bias; W `(O/v, rank*C, v)` with K over (term, channel), and B `(O/v, v)`; R if any.
    """
    v = machine.lanes
    blocks, out_blocks = machine.blocks(conv.channels), machine.blocks(outputs)
    depth = rank * blocks * v
    width = conv.out_width
    y_shape = (conv.batch, out_blocks, conv.out_height, width, v)
    inputs = [
        machine.buffer("X", (conv.batch, blocks, conv.height, conv.width, v)),
        machine.buffer("F", (rank, blocks, conv.window.area, v)),
        machine.buffer("G", (rank, blocks, v)),
        machine.buffer("W", (out_blocks, depth, v)),
        machine.buffer("B", (out_blocks, v)),
    ]
    if epilogue.residual:
        inputs.append(machine.buffer("R", y_shape))

    knobs = knobs or separable_knobs(conv, rank, outputs, machine)
    tasks = tasks_for(knobs, conv.out_height)
    pixels, per_task = tasks.rows * width, out_blocks // tasks.splits
    tiling = tiling_for(knobs, pixels, per_task, machine)

    source = Source(machine.element)
    with source.loop("task", conv.batch * tasks.count, "parallel"):
        locate(source, tasks, conv.out_height)
        source.scratch("S", (rank * blocks, pixels, v))
        with source.loop("cb", blocks), source.loop("term", rank), source.loop("r", tasks.rows):
            fold = Fold(
                "G[term, cb, q]",
                lambda acc, x, position: f"{acc} + {x} * F[term, cb, {position}, q]",
                lambda acc, _column: middle.apply(source.element, acc),
            )
            row_of_windows(
                source,
                conv,
                knobs.row_tile,
                v,
                fold,
                "row0 + r",
                lambda column: f"S[term*{blocks} + cb, r*{width} + {column}, q]",
            )
        work = Contraction(
            [("cb", rank * blocks)],
            v,
            min(knobs.unroll, v),
            f"cb*{v} + step",
            lambda _row, column: f"S[cb, {column}, step]",
            lambda vector, _row, column: (
                f"image, {vector}, row0 + ({column})//{width}, ({column})%{width}, q"
            ),
            epilogue,
            out_blocks,
            # with more terms there is one in the middle, too
            machine.tail(conv.channels) if rank == 1 else 0,
            fetch=fetch_rows(source, conv, tasks.rows, machine, rank),
        )
        contract(source, machine, tiling, 1, f"split*{per_task}", work, knobs.weight_bytes)
    return source.kernel("separable", inputs, y_shape)


def _source(workload: Workload, machine: Machine, knobs: Knobs) -> Kernel:
    conv, rank, outputs = workload.conv, workload.rank, workload.outputs
    middle, epilogue = workload.middle, workload.epilogue
    return separable_kernel(conv, rank, outputs, middle, epilogue, machine, knobs)


def _pack(
    workload: Workload, lanes: int, parameters: Sequence[Array], _knobs: Knobs
) -> list[Array]:
    filters, shifts, weight, bias = parameters
    return [
        pack_depthwise(filters, workload.rank, lanes),
        pack_depthwise_bias(shifts, workload.rank, lanes),
        pack_terms(weight, workload.rank, lanes),
        pack_bias(bias, lanes),
    ]


def _extents(workload: Workload, machine: Machine, knobs: Knobs) -> Extents:
    conv, vectors = workload.conv, machine.blocks(workload.outputs)
    default = workload.default_knobs(machine)
    return Extents(knobs.rows * conv.out_width, vectors, conv.out_height, default)


def _parts(workload: Workload) -> tuple[Conv, ...]:
    filters = replace(workload.conv, outputs=workload.conv.channels * workload.rank)
    height, width = filters.out_height, filters.out_width
    batch, channels, outputs = filters.batch, filters.outputs, workload.outputs
    return filters, Conv(batch, channels, height, width, outputs, Window((1, 1)), height, width)


SEPARABLE = Kind(
    "separable",
    lambda workload, machine: separable_knobs(
        workload.conv, workload.rank, workload.outputs, machine
    ),
    _source,
    _pack,
    in_turn,
    (tiles, tasks, weight_bytes, row_tiles, unrolls),
    _extents,
    _parts,
)
