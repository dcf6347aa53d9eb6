"""How the work of a kernel is cut: register tiles, strips of rows for a task, tasks for threads."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.compiling.kernels.instruction_sets import SIXTEEN_REGISTERS, measured_tiles
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv

_OVERLAPPING = 0.85
_SPILLING = 0.5  # the stem of a ResNet, 14 x 2 against 7 x 2, on the Xeon
_MOST_OVERLAPPING = 16  # accumulators beside the pixels that are kept
_LONG_VECTOR = 64  # bytes, for which these two were measured
_SPARE_REGISTERS = 4  # of 32, for weights and a broadcast pixel
_MOST_UNROLLED = 16  # steps: no more were measured
_FMA_LATENCY = 4.0  # cycles, at two FMAs a cycle

_STRIP_PIXELS = 48  # of a task, or the weights' way from the second level cache shows
_SPLIT_VECTORS = 4  # of a task, or its register tiles are too small
_WASTE = 0.15  # of the rows of a map, computed twice because strips overlap


@dataclass(frozen=True)
class Run:
    """`count` neighbouring tiles of `size`, from `start` on."""

    start: int
    size: int
    count: int


@dataclass(frozen=True)
class Tiling:
    """Register tiles: runs over output vectors, and for each of them the runs over a row of
    pixels."""

    runs: tuple[tuple[Run, tuple[Run, ...]], ...]

    @property
    def count(self) -> int:
        """Tiles of one row."""
        return sum(v.count * sum(p.count for p in pixels) for v, pixels in self.runs)


@dataclass(frozen=True)
class Tasks:
    """Tasks of one image: `strips` of `rows` rows each, times `splits` of the output vectors.

    The last strip starts at `height - rows`: it may overlap the one before it, which then computes
    the same values twice and spares every kernel a tail.
    """

    rows: int
    strips: int
    splits: int

    @property
    def count(self) -> int:
        """Tasks of one image."""
        return self.strips * self.splits


def even_runs(extent: int, largest: int) -> tuple[Run, ...]:
    """Cut `extent` into the fewest tiles of at most `largest`, sizes differing by one at most."""
    tiles = -(-extent // largest)
    small, big = extent // tiles, extent % tiles
    runs = [Run(0, small + 1, big)] if big else []
    return (*runs, Run(big * (small + 1), small, tiles - big))


def greedy_runs(extent: int, size: int) -> tuple[Run, ...]:
    """Cut `extent` into tiles of `size`, and one smaller one for the rest."""
    full, rest = divmod(extent, size)
    runs = [Run(0, size, full)] if full else []
    return (*runs, Run(full * size, rest, 1)) if rest else tuple(runs)


def default_unroll(vectors: int, machine: Machine) -> int:
    """Steps of a reduction over channels to write out, for tiles of so many vectors."""
    return 4 if vectors > 1 and machine.registers >= 32 else min(machine.lanes, _MOST_UNROLLED)


def tiling_for(
    knobs: Knobs, pixels: int, vectors: int, machine: Machine, overlapping: bool = False
) -> Tiling:
    """The register tiling that `knobs` ask for, over `pixels` and output `vectors`; `overlapping`
    is explained at `rank_tiles`."""
    size = knobs.pixels, knobs.vectors
    return _tile(pixels, vectors, size, machine, overlapping, (0.0, 0.0))


def tasks_for(knobs: Knobs, height: int) -> Tasks:
    """The tasks that `knobs` ask for, over `height` output rows."""
    return Tasks(knobs.rows, -(-height // knobs.rows), knobs.splits)


def rank_tiles(
    pixels: int,
    vectors: int,
    machine: Machine,
    overlapping: bool = False,
    fetching: tuple[float, float] = (0.0, 0.0),
) -> list[tuple[int, int]]:
    """Register tiles (pixels, vectors) for a row of `pixels` and output `vectors`, those expected
    to be fastest first. `overlapping`: the steps written out read a pixel more than once.
    `fetching`: what a tile pays for each of its pixels and for each vector of weights, in products,
    where they come from beyond the first level cache."""
    costs: dict[tuple[int, int], float] = {}
    for across, largest in _candidates(vectors, machine):
        size = largest, across
        tiling = _tile(pixels, vectors, size, machine, overlapping, fetching)
        costs[size] = sum(
            v.count * _cost(row, v.size, machine, overlapping, fetching) for v, row in tiling.runs
        )
    return sorted(costs, key=costs.__getitem__)


def _tile(
    pixels: int,
    vectors: int,
    size: tuple[int, int],
    machine: Machine,
    overlapping: bool,
    fetching: tuple[float, float],
) -> Tiling:
    """Tiles of `size` (pixels, vectors). Vectors that are left over get as many pixels as suit
    them: with as few accumulators an FMA would wait for the one before it."""
    row = even_runs(pixels, size[0])
    full, *rest = greedy_runs(vectors, size[1])
    runs = [(full, row)]
    for left in rest:
        rows = [
            even_runs(pixels, most)
            for across, most in _candidates(vectors, machine)
            if across == left.size
        ]
        count = left.size
        rows.sort(key=lambda row: _cost(row, count, machine, overlapping, fetching))
        runs.append((left, [*rows, row][0]))
    return Tiling(tuple(runs))


def _cost(
    row: tuple[Run, ...],
    vectors: int,
    machine: Machine,
    overlapping: bool,
    fetching: tuple[float, float],
) -> float:
    """Products that a row of tiles of so many vectors takes the time of."""
    return sum(
        p.count * p.size * vectors / _speed(p.size, vectors, machine, overlapping)
        + p.count * (p.size * fetching[0] + vectors * fetching[1])
        for p in row
    )


def _candidates(vectors: int, machine: Machine) -> list[tuple[int, int]]:
    """(vectors, most pixels) of the tiles to consider."""
    if machine.registers < 32:
        tiles = [(across, size) for size, across in SIXTEEN_REGISTERS]
    else:
        room = machine.registers - _SPARE_REGISTERS
        tiles = [
            (across, size)
            for across in range(1, min(vectors, 8) + 1)
            for size in range(1, min(room // across, 14) + 1)
        ]
    return [t for t in tiles if t[0] <= vectors and t[1] <= machine.most_local]


def _speed(pixels: int, vectors: int, machine: Machine, overlapping: bool) -> float:
    """Throughput of a tile, 1 for the best: measured, or bound by FMA latency and loads."""
    measured = measured_tiles(machine)
    # LLVM then keeps broadcast pixels for later steps instead of folding them into the FMA, and
    # spills where that leaves too few registers
    loss = 1.0
    if overlapping and machine.registers >= 32 and vectors == 1:
        loss = _OVERLAPPING
    elif (
        overlapping
        and machine.vector_bytes >= _LONG_VECTOR
        and pixels * vectors > _MOST_OVERLAPPING
    ):
        loss = _SPILLING
    if (pixels, vectors) in measured:
        return loss * measured[pixels, vectors]
    work = pixels * vectors / 2
    return loss * min(0.9, work / max(work, _FMA_LATENCY, (pixels + vectors) / 2))


def task_count(macs: int, machine: Machine) -> int:
    """Tasks that `macs` multiply-adds are worth."""
    return max(1, min(machine.max_tasks, macs // machine.task_macs))


def expected_threads(macs: int, machine: Machine) -> int:
    """Threads that are expected and that `macs` multiply-adds are worth: where tasks do a part of
    each other's work again, there should not be more of them."""
    return min(task_count(macs, machine), -(-machine.max_tasks // 2))


def choose_tasks(
    conv: Conv,
    vectors: int,
    macs: int,
    row_bytes: int,
    machine: Machine,
    *,
    repeated: bool = False,
) -> Tasks:
    """Cut one image of `conv`, which costs `macs` multiply-adds, into tasks.

    `row_bytes` is the scratch that a task needs for each of its output rows. With `repeated`, tasks
    for other output vectors of the same strip do a part of their work again: no more of them than
    threads that are expected.
    """
    height = conv.out_height
    wanted = task_count(macs, machine)
    halo = (conv.window.kernel[0] - 1) * conv.window.dilation[0] if conv.window.padded else 0
    lowest = max(-(-_STRIP_PIXELS // conv.out_width), -(-2 * halo // conv.window.stride[0]))
    most = max(1, height // min(lowest, height))
    least = -(-height // max(1, machine.scratch_bytes // max(row_bytes, 1)))
    # a power of two feeds any number of threads evenly that is one
    strips = 1
    while strips < least or (2 * strips <= min(wanted, most) and _fits(height, 2 * strips)):
        strips *= 2
    rows = -(-height // min(strips, height))
    strips = -(-height // rows)
    tasks = expected_threads(macs, machine) if repeated else wanted
    room = min(tasks // strips, vectors // _SPLIT_VECTORS)
    splits = max(n for n in range(1, max(1, room) + 1) if vectors % n == 0)
    return Tasks(rows, strips, splits)


def _fits(height: int, strips: int) -> bool:
    """Whether `strips` equal strips of `height` rows overlap little enough."""
    return -(-height // strips) * strips <= height * (1 + _WASTE)
