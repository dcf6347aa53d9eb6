"""Pointwise and then depthwise in one kernel, the order `pw-dw`: mixed rows stay in cache until the
filters have passed over them. A depth multiplier is a sum of filtered terms."""

from __future__ import annotations

from collections.abc import Sequence

from sepify.compiling.kernels.axes import row_tiles, tasks, tiles, unrolls, weight_bytes
from sepify.compiling.kernels.carried import carry_rows, strips_for
from sepify.compiling.kernels.contract import Contraction, contract
from sepify.compiling.kernels.depthwise import Fold, default_row_tile, row_of_windows
from sepify.compiling.kernels.kind import Extents, Kind, Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.reference import in_turn
from sepify.compiling.kernels.shapes import Conv, Epilogue
from sepify.compiling.kernels.source import Kernel, Source
from sepify.compiling.kernels.tiles import (
    default_unroll,
    expected_threads,
    rank_tiles,
    tasks_for,
    tiling_for,
)
from sepify.compiling.kernels.weights import Array, pack_bias, pack_depthwise, pack_term_outputs

_LEAST_VECTORS = 2  # of a task, or its register tiles are too small


def pw_dw_knobs(pointwise: Conv, depthwise: Conv, machine: Machine) -> Knobs:
    """The knobs that are expected to be good, without measuring. Tasks of different output channels
    share nothing but what they read; those of different strips compute some rows twice."""
    blocks = machine.blocks(depthwise.outputs)
    threads = expected_threads((pointwise.macs + depthwise.macs) // pointwise.batch, machine)
    room = min(threads, blocks // _LEAST_VECTORS)
    splits = max(n for n in range(1, max(1, room) + 1) if blocks % n == 0)
    strips = strips_for(pointwise, depthwise, threads // splits)
    pixels, vectors = rank_tiles(pointwise.out_width, blocks // splits, machine)[0]
    return Knobs(
        pixels,
        vectors,
        -(-depthwise.out_height // strips),
        splits,
        unroll=default_unroll(vectors, machine),
        row_tile=default_row_tile(machine),
    )


def pw_dw_kernel(
    pointwise: Conv,
    depthwise: Conv,
    middle: Epilogue,
    epilogue: Epilogue,
    machine: Machine,
    knobs: Knobs,
) -> Kernel:
    """`pointwise` has C -> rank*O channels, `depthwise` O groups of rank channels and one output.

    Inputs X `(N, C/v, H, W, v)`; W `(rank*O/v, C, v)` and B `(rank*O/v, v)`, the pointwise weight
    and bias, outputs in the order (term, channel); F `(rank, O/v, kh*kw, v)` and G `(O/v, v)`, the
    depthwise ones; R if there is a residual.
    """
    v, rank = machine.lanes, depthwise.channels // depthwise.groups
    blocks, out_blocks = machine.blocks(pointwise.channels), machine.blocks(depthwise.outputs)
    y_shape = (depthwise.batch, out_blocks, depthwise.out_height, depthwise.out_width, v)
    inputs = [
        machine.buffer("X", (pointwise.batch, blocks, pointwise.height, pointwise.width, v)),
        machine.buffer("W", (rank * out_blocks, blocks * v, v)),
        machine.buffer("B", (rank * out_blocks, v)),
        machine.buffer("F", (rank, out_blocks, depthwise.window.area, v)),
        machine.buffer("G", (out_blocks, v)),
    ]
    if epilogue.residual:
        inputs.append(machine.buffer("R", y_shape))
    tasks, per_task = tasks_for(knobs, depthwise.out_height), out_blocks // knobs.splits
    tiling = tiling_for(knobs, pointwise.out_width, per_task, machine)
    source = Source(machine.element)

    def mix_rows(count: int, place: int) -> None:
        with source.loop("part", rank):
            first = f"part*{out_blocks} + split*{per_task}"
            work = Contraction(
                [("cb", blocks)],
                v,
                min(knobs.unroll, v),
                f"cb*{v} + step",
                lambda row, column: f"X[image, cb, row0 + {row}, {column}, step]",
                lambda vector, row, column: (
                    f"part*{per_task} + {vector} - ({first}), {place} + {row}, {column}, q"
                ),
                middle,
                rank * out_blocks,
                machine.tail(pointwise.channels),
                into="Z",
                on_map=lambda row: f"row0 + {row} >= 0 and row0 + {row} < {pointwise.out_height}",
            )
            contract(source, machine, tiling, count, first, work, knobs.weight_bytes)

    def filter_row(row: str) -> None:
        with source.loop("ob", per_task):
            block = f"split*{per_task} + ob"
            fold = Fold(
                f"G[{block}, q]",
                lambda acc, x, position: f"{acc} + {x} * F[term, {block}, {position}, q]",
                lambda acc, column: epilogue.apply(
                    source.element, acc, f"R[image, {block}, {row}, {column}, q]"
                ),
                terms=rank,
            )
            row_of_windows(
                source,
                depthwise,
                knobs.row_tile,
                v,
                fold,
                row,
                lambda column: f"Y[image, {block}, {row}, {column}, q]",
                lambda _y, x: (
                    f"Z[term*{per_task} + ob, r*{depthwise.window.stride[0]} + ky, {x}, q]"
                ),
            )

    carry_rows(source, pointwise, depthwise, tasks, rank * per_task, machine, mix_rows, filter_row)
    return source.kernel("pw_dw", inputs, y_shape)


def _source(workload: Workload, machine: Machine, knobs: Knobs) -> Kernel:
    middle, epilogue = workload.middle, workload.epilogue
    return pw_dw_kernel(workload.conv, workload.second, middle, epilogue, machine, knobs)


def _pack(
    workload: Workload, lanes: int, parameters: Sequence[Array], _knobs: Knobs
) -> list[Array]:
    weight, bias, filters, shifts = parameters
    rank = workload.second.channels // workload.second.groups
    return [
        *pack_term_outputs(weight, bias, rank, lanes),
        pack_depthwise(filters.reshape(-1, 1, *filters.shape[2:]), rank, lanes),
        pack_bias(shifts, lanes),
    ]


def _extents(workload: Workload, machine: Machine, _knobs: Knobs) -> Extents:
    vectors, rows = machine.blocks(workload.second.outputs), workload.second.out_height
    return Extents(workload.conv.out_width, vectors, rows, workload.default_knobs(machine))


PW_DW = Kind(
    "pw-dw",
    lambda workload, machine: pw_dw_knobs(workload.conv, workload.second, machine),
    _source,
    _pack,
    in_turn,
    (tiles, tasks, weight_bytes, row_tiles, unrolls),
    _extents,
    lambda workload: (workload.conv, workload.second),
)
