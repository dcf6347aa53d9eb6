"""The inner loops that every convolution here ends in: pixels x vectors of accumulators in
registers, one scalar of the input broadcast against a vector of weights at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Epilogue
from sepify.compiling.kernels.source import Source
from sepify.compiling.kernels.tiles import Run, Tiling, greedy_runs


@dataclass(frozen=True)
class Contraction:
    """`Y[vector, row, column] = epilogue(B[vector] + sum over the loops of x * W[vector, k])`.

    The texts may use the loops' variables and `step`, the innermost, over which k runs one by one;
    a pixel is given as the texts of its row and column. Results go `into` a buffer; sums that are
    none yet (`partial`) start from zero.
    """

    loops: Sequence[tuple[str, int]]  # of the reduction but `step`, outermost first
    steps: int
    unroll: int  # steps that are written out; divides them
    k: str
    x: Callable[[str, str], str]
    y: Callable[[str, str, str], str]  # (vector, row, column) -> indices of Y and R
    epilogue: Epilogue
    weights: int  # vectors of W
    tail: int = 0  # steps of the outermost loop's last turn; 0: as many as of the others
    into: str = "Y"
    partial: bool = False
    on_map: Callable[[str], str] | None = None  # condition on a row: others are left out
    # write what asks for a part of the input that is read next: the part's number, of so many
    fetch: Callable[[str, int], None] | None = None


def contract(
    source: Source,
    machine: Machine,
    tiling: Tiling,
    rows: int,
    first: str,
    work: Contraction,
    weight_bytes: int,
) -> None:
    """Write the loops over output vectors from `first` on, `rows` rows and the tiles of a row.

    The outermost loop of the reduction, but for a shorter last turn, is cut into chunks of at most
    `weight_bytes` of weights, which stay in the first level cache while all tiles of pixels pass
    by; between chunks the sums wait in a scratch buffer. Each tile asks for its part of the weights
    of the next chunk: within a network they were last read an inference ago, and come from the
    third level cache or memory.
    """
    lanes = machine.lanes
    name, extent = work.loops[0]
    if work.tail:
        extent -= 1
    inner = work.steps
    for _, inner_extent in work.loops[1:]:
        inner *= inner_extent
    all_bytes = machine.vector_bytes * work.weights * extent * inner
    before, turns = 0, rows * tiling.count
    for vectors, across in tiling.runs:
        columns = sum(run.size * run.count for run in across)
        tiles = rows * sum(run.count for run in across)
        fetches = machine.prefetches and tiles > 1 and all_bytes > weight_bytes
        step_bytes = machine.vector_bytes * vectors.size * inner
        chunks = max(1, -(-extent // max(1, weight_bytes // step_bytes)))
        if tiles == 1:
            chunks = 1  # nothing would be read again
        bounds = [f"{co}*{extent}//{chunks}" for co in ("co", "(co + 1)", f"((co + 1) % {chunks})")]
        with source.loop("vo", vectors.count):
            if chunks > 1:
                source.scratch("P", (rows * columns, vectors.size, lanes))
            guard = f"if {work.on_map('row')}" if work.on_map else ""
            with source.loop("co", chunks), source.loop("row", rows), source.optional(guard):
                number = f"row*{tiles // rows}"
                for pixels in across:
                    tile = _Tile(
                        machine,
                        vectors,
                        pixels,
                        vector=f"{first} + vo*{vectors.size} + {vectors.start}",
                        columns=columns,
                        chunks=chunks,
                        full=extent > 0,
                        head=f"for {name} in range({bounds[0]}, {bounds[1]})",
                        shift=f"({bounds[2]} - {bounds[0]})*{inner}",
                        number=f"({number} + po)",
                        tiles=tiles,
                        turn=f"({before} + vo*{tiles} + {number} + po)",
                        turns=turns,
                        fetches=fetches,
                    )
                    with source.loop("po", pixels.count):
                        _write_tile(source, tile, work)
                    number = f"{number} + {pixels.count}"
        before += vectors.count * tiles


@dataclass(frozen=True)
class _Tile:
    machine: Machine
    vectors: Run
    pixels: Run
    vector: str  # the first one
    columns: int
    chunks: int
    full: bool  # whether the chunked loop has turns of all steps
    head: str  # of the chunked loop
    shift: str  # of k, to the next chunk
    number: str  # of this tile, of so many for these vectors
    tiles: int
    turn: str  # the same over all vectors
    turns: int
    fetches: bool  # weights: not where all of them stay in the first level cache


def _write_tile(source: Source, tile: _Tile, work: Contraction) -> None:
    pixels, vectors, lanes = tile.pixels, tile.vectors, tile.machine.lanes
    column = f"po*{pixels.size} + {pixels.start}"

    def accumulator(n: int) -> str:
        return f"acc{n}[m*{lanes} + q]"

    def waiting(n: int) -> str:
        return f"P[row*{tile.columns} + {column} + m, {n}, q]"

    def start(n: int) -> str:
        return source.element.literal(0) if work.partial else f"B[{tile.vector} + {n}, q]"

    def index(n: int) -> str:
        return work.y(f"{tile.vector} + {n}", "row", f"{column} + m")

    def product(n: int) -> str:
        x = work.x("row", f"{column} + m")
        return f"{accumulator(n)} + {x} * W[{tile.vector} + {n}, {work.k}, q]"

    def result(n: int) -> str:
        return work.epilogue.apply(source.element, accumulator(n), f"R[{index(n)}]")

    def each(target: Callable[[int], str], value: Callable[[int], str]) -> Callable[[], None]:
        def write() -> None:
            with source.loop("m", pixels.size, "unroll"):
                for n in range(vectors.size):
                    source.vector(lanes, target(n), value(n))

        return write

    def reduce(loops: Sequence[str], steps: int) -> None:
        with source.block(loops[0]):
            if work.fetch and len(loops) == len(work.loops):
                work.fetch(tile.turn, tile.turns)
            if len(loops) > 1:
                reduce(loops[1:], steps)
                return
            if steps == work.steps:
                _fetch_weights(source, tile, work)
            for run in greedy_runs(steps, work.unroll):
                with source.loop("so", run.count), source.loop("si", run.size, "unroll"):
                    source.line(f"step = T.meta_var({run.start} + so*{run.size} + si)")
                    each(accumulator, product)()

    # one buffer for each vector: LLVM keeps those in registers that are below 1 KiB
    for n in range(vectors.size):
        source.local(f"acc{n}", (pixels.size * lanes,))
    _either(source, tile, "co == 0", each(accumulator, start), each(accumulator, waiting))
    heads = [f"for {name} in range({count})" for name, count in work.loops[1:]]
    if tile.full:
        reduce([tile.head, *heads], work.steps)
    last = f"co == {tile.chunks - 1}"
    if work.tail:
        name, extent = work.loops[0]
        with source.optional(f"if {last}" if tile.chunks > 1 else ""):
            reduce([f"for {name} in range({extent - 1}, {extent})", *heads], work.tail)
    write = each(lambda n: f"{work.into}[{index(n)}]", result)
    _either(source, tile, last, write, each(waiting, accumulator))


def _either(
    source: Source, tile: _Tile, condition: str, yes: Callable[[], None], no: Callable[[], None]
) -> None:
    """`yes` under the condition, else `no`; just `yes` where there is one chunk only."""
    if tile.chunks == 1:
        yes()
        return
    with source.block(f"if {condition}"):
        yes()
    with source.block("else"):
        no()


def _fetch_weights(source: Source, tile: _Tile, work: Contraction) -> None:
    """Ask for the weights that are read at this place of the next chunk, or of the first chunk of
    the next output vectors: each tile for its part of the steps."""
    if not tile.fetches:
        return
    each = tile.machine.line_vectors  # steps in a cache line
    lines = -(-work.steps // each)
    share = -(-lines // tile.tiles)
    later = f"((co + 1)//{tile.chunks}*{tile.vectors.size})"
    with source.loop("part", share, "unroll"):
        source.line(f"step = T.meta_var(({tile.number}*{share} + part) % {lines} * {each})")
        for n in range(tile.vectors.size):
            vector = f"T.min({tile.vector} + {n} + {later}, {work.weights - 1})"
            for lane in tile.machine.line_starts:
                source.fetch(f"W[{vector}, {work.k} + {tile.shift}, {lane}]")
