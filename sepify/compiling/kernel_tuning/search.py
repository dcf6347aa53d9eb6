"""Which knobs to try, in which order: one kind of knob at a time from the default on, the likeliest
values first."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial

from sepify.compiling.kernels.cook_toom import TILES
from sepify.compiling.kernels.dense import is_flat
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.tiles import default_unroll, rank_tiles
from sepify.compiling.kernels.winograd import WINOGRAD_FETCHING, tile_count
from sepify.compiling.kernels.workload import Workload

_BETTER = 0.99  # of the best so far, or it is noise
_TILES = 7
_GRIDS = 8
_WEIGHT_BYTES = (8 << 10, 24 << 10, 48 << 10, 1 << 30)
_UNROLLS = (2, 4, 8, 16)
_ROW_TILES = (4, 7, 8, 14, 16, 28)
_OVERLAP = 1.08  # of the rows of a map, computed at most
_SCRATCH = 4  # times the scratch that is thought best

Axis = Callable[[Knobs], Iterator[Knobs]]


def search(
    workload: Workload, machine: Machine
) -> Generator[tuple[Knobs, ...], Sequence[float | None], None]:
    """Yields candidates that may be timed at the same time, the default one alone first; is sent
    the time of each over the default's, in their order, None for one that failed. Ends when no
    neighbour of the best is left untried."""
    best = workload.default_knobs(machine)
    tried = {workload.kernel(machine, best).name}
    fastest = (yield (best,))[0] or 1.0
    improved = True
    while improved:
        improved = False
        for axis in _axes(workload, machine):
            group = []
            for knobs in axis(best):
                # other knobs may give the very same kernel
                name = workload.kernel(machine, knobs).name
                if name not in tried:
                    tried.add(name)
                    group.append(knobs)
            if not group:
                continue
            for knobs, relative in zip(group, (yield tuple(group)), strict=True):
                if relative is not None and relative < fastest * _BETTER:
                    best, fastest, improved = knobs, relative, True


def _axes(workload: Workload, machine: Machine) -> list[Axis]:
    """The kinds of knobs that a workload has, those that matter most first."""
    tiles = partial(_tiles, workload, machine)
    tasks = partial(_tasks, workload, machine)
    if workload.kind in ("separable", "pw-dw"):
        return [tiles, tasks, _weight_bytes, partial(_row_tiles, workload), _unrolls]
    if workload.kind == "dense":
        axes: list[Axis] = [tiles, tasks, _weight_bytes]
        if workload.can_winograd:
            axes.insert(0, partial(_algorithms, workload, machine))
        return [*axes, _unrolls] if workload.blocked else axes
    if workload.kind == "linear":
        return [partial(_linear_tiles, machine), _unrolls, _weight_bytes]
    return [partial(_row_tiles, workload), tasks]


def _algorithms(workload: Workload, machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    for winograd in (*TILES, 0):
        if winograd != knobs.winograd:
            yield workload.knobs_for(winograd, machine)


def _tiles(workload: Workload, machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    conv = workload.conv
    pixels = knobs.rows * conv.out_width
    if knobs.winograd:
        pixels = knobs.rows
    elif workload.kind == "pw-dw" or (workload.kind == "dense" and not is_flat(conv)):
        pixels = conv.out_width
    vectors = _vectors(workload, machine) // knobs.splits
    fetching = WINOGRAD_FETCHING if knobs.winograd else (0.0, 0.0)
    ranked = rank_tiles(pixels, vectors, machine, fetching=fetching)
    # tiles of more pixels than the row has are the same tile
    sizes = dict.fromkeys((min(p, pixels), v) for p, v in ranked)
    for size, across in list(sizes)[:_TILES]:
        unroll = default_unroll(across, machine) if workload.blocked else knobs.unroll
        yield replace(knobs, pixels=size, vectors=across, unroll=unroll)


def _vectors(workload: Workload, machine: Machine) -> int:
    """Output vectors of a group, all tasks together."""
    if workload.kind == "separable":
        return machine.blocks(workload.outputs)
    if workload.kind == "pw-dw":
        return machine.blocks(workload.spread.outputs)
    if workload.kind == "dense":
        return machine.blocks(workload.conv.outputs) // workload.conv.groups
    return machine.blocks(workload.conv.outputs)


def _tasks(workload: Workload, machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    """Strips and splits that feed every thread alike, from the default's number of tasks."""
    height, vectors = (workload.then or workload.conv).out_height, _vectors(workload, machine)
    default = workload.knobs_for(knobs.winograd, machine)
    if knobs.winograd:
        height = tile_count(workload.conv, knobs.winograd)
    enough = -(-height // default.rows) * default.splits
    found = []
    pooled = workload.kind == "dense" and workload.then is not None
    most = 1 if pooled else min(vectors, 8)
    for splits in (n for n in range(1, most + 1) if vectors % n == 0):
        for strips in range(1, height + 1):
            rows = -(-height // strips)
            even = strips * splits % max(1, min(enough, machine.max_tasks // 2)) == 0
            overlap = strips * rows <= height * _OVERLAP and -(-height // rows) == strips
            if even and overlap and rows <= default.rows * _SCRATCH:
                found.append((rows, splits))
    # those closest to the default in rows, which is what decides how well caches are used
    found.sort(key=lambda c: (abs(c[1] - default.splits), abs(c[0] - default.rows)))
    for rows, splits in found[:_GRIDS]:
        yield replace(knobs, rows=rows, splits=splits)


def _weight_bytes(knobs: Knobs) -> Iterator[Knobs]:
    for size in _WEIGHT_BYTES:
        yield replace(knobs, weight_bytes=size)


def _unrolls(knobs: Knobs) -> Iterator[Knobs]:
    for unroll in _UNROLLS:
        yield replace(knobs, unroll=unroll)


def _row_tiles(workload: Workload, knobs: Knobs) -> Iterator[Knobs]:
    for size in _ROW_TILES:
        if size <= max(workload.conv.out_width, _ROW_TILES[0]):
            yield replace(knobs, row_tile=size)


def _linear_tiles(machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    for vectors in (1, 2, 4, 8, 16):
        if vectors * knobs.pixels <= machine.registers - 4:
            yield replace(knobs, vectors=vectors)
