"""The axes that the search goes along: each yields other values of one kind of knob, the likeliest
first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.tiles import default_unroll, rank_tiles

_TILES = 7
_GRIDS = 8
_WEIGHT_BYTES = (8 << 10, 24 << 10, 48 << 10, 1 << 30)
_UNROLLS = (2, 4, 8, 16)
_ROW_TILES = (4, 7, 8, 14, 16, 28)
_OVERLAP = 1.08  # of the rows of a map, computed at most
_SCRATCH = 4  # times the scratch that is thought best


def tiles(workload: Workload, machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    """Register tiles."""
    extents = workload.kind.extents(workload, machine, knobs)
    vectors = extents.vectors // knobs.splits
    ranked = rank_tiles(extents.pixels, vectors, machine, fetching=extents.fetching)
    # tiles of more pixels than the row has are the same tile
    sizes = dict.fromkeys((min(p, extents.pixels), v) for p, v in ranked)
    for size, across in list(sizes)[:_TILES]:
        unroll = default_unroll(across, machine) if workload.blocked else knobs.unroll
        yield replace(knobs, pixels=size, vectors=across, unroll=unroll)


def tasks(workload: Workload, machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    """Strips and splits that feed every thread alike, from the default's number of tasks."""
    extents = workload.kind.extents(workload, machine, knobs)
    height, vectors, default = extents.rows, extents.vectors, extents.default
    enough = -(-height // default.rows) * default.splits
    threads = max(1, min(enough, machine.max_tasks // 2))
    found = []
    most = min(vectors, extents.most_splits)
    for splits in (n for n in range(1, most + 1) if vectors % n == 0):
        for strips in range(1, height + 1):
            rows = -(-height // strips)
            even = strips * splits % threads == 0
            overlap = strips * rows <= height * _OVERLAP and -(-height // rows) == strips
            if even and overlap and rows <= default.rows * _SCRATCH:
                found.append((rows, splits))
    # those closest to the default in rows, which is what decides how well caches are used
    found.sort(key=lambda c: (abs(c[1] - default.splits), abs(c[0] - default.rows)))
    for rows, splits in found[:_GRIDS]:
        yield replace(knobs, rows=rows, splits=splits)


def weight_bytes(_workload: Workload, _machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    """Weights that pass through the first level cache at a time."""
    for size in _WEIGHT_BYTES:
        yield replace(knobs, weight_bytes=size)


def unrolls(_workload: Workload, _machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    """Steps of the reduction that are written out."""
    for unroll in _UNROLLS:
        yield replace(knobs, unroll=unroll)


def row_tiles(workload: Workload, _machine: Machine, knobs: Knobs) -> Iterator[Knobs]:
    """Pixels of a depthwise row that are filtered at a time."""
    for size in _ROW_TILES:
        if size <= max(workload.conv.out_width, _ROW_TILES[0]):
            yield replace(knobs, row_tile=size)
