"""The inner loops that every convolution here ends in: pixels x vectors of accumulators in
registers, one scalar of the input broadcast against a vector of weights at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sepify.compiling.kernels.shapes import Epilogue
from sepify.compiling.kernels.source import Source
from sepify.compiling.kernels.tiles import Run, Tiling


@dataclass(frozen=True)
class Contraction:
    """`Y[vector, row, column] = epilogue(B[vector] + sum over the loops of x * W[vector, k])`.

    The texts may use the loops' variables; a pixel is given as the texts of its row and column.
    Results go `into` a buffer; sums that are none yet (`partial`) start from zero.
    """

    loops: Sequence[tuple[str, int]]  # of the reduction, outermost first
    unrolled: tuple[str, int]  # the innermost
    k: str
    x: Callable[[str, str], str]
    y: Callable[[str, str, str], str]  # (vector, row, column) -> indices of Y and R
    epilogue: Epilogue
    into: str = "Y"
    partial: bool = False
    on_map: Callable[[str], str] | None = None  # condition on a row: others are left out


def contract(
    source: Source,
    lanes: int,
    tiling: Tiling,
    rows: int,
    first: str,
    work: Contraction,
    weight_bytes: int,
) -> None:
    """Write the loops over output vectors from `first` on, `rows` rows and the tiles of a row.

    The outermost loop of the reduction is cut into chunks of at most `weight_bytes` of weights,
    which stay in the first level cache while all tiles of pixels pass by; between chunks the sums
    wait in a scratch buffer.
    """
    columns = sum(run.size * run.count for run in tiling.pixels)
    name, extent = work.loops[0]
    inner = work.unrolled[1]
    for _, inner_extent in work.loops[1:]:
        inner *= inner_extent
    for vectors in tiling.vectors:
        step_bytes = 4 * lanes * vectors.size * inner
        chunks = -(-extent // max(1, weight_bytes // step_bytes))
        if rows * columns <= tiling.pixels[0].size:
            chunks = 1  # a single tile: nothing would be read again
        head = f"for {name} in range(co*{extent}//{chunks}, (co + 1)*{extent}//{chunks})"
        with source.loop("vo", vectors.count):
            if chunks > 1:
                source.scratch("P", (rows * columns, vectors.size, lanes))
            vector = f"{first} + vo*{vectors.size} + {vectors.start}"
            guard = f"if {work.on_map('row')}" if work.on_map else ""
            with source.loop("co", chunks), source.loop("row", rows), source.optional(guard):
                for pixels in tiling.pixels:
                    with source.loop("po", pixels.count):
                        tile = _Tile(lanes, vectors, pixels, vector, columns, chunks, head)
                        _write_tile(source, tile, work)


def lane_loops(lanes: int, unroll: int) -> tuple[list[tuple[str, int]], tuple[str, int], str]:
    """A reduction over the lanes of a vector, `unroll` of them written out: the loops outside, the
    unrolled one, and the text of the lane."""
    unroll = min(unroll, lanes)
    if unroll == lanes:
        return [], ("ci", lanes), "ci"
    return [("cu", lanes // unroll)], ("ci", unroll), f"(cu*{unroll} + ci)"


@dataclass(frozen=True)
class _Tile:
    lanes: int
    vectors: Run
    pixels: Run
    vector: str  # the first one
    columns: int
    chunks: int
    head: str  # of the chunked loop


def _write_tile(source: Source, tile: _Tile, work: Contraction) -> None:
    pixels, vectors, lanes = tile.pixels, tile.vectors, tile.lanes
    each = [("m", pixels.size), ("n", vectors.size)]
    acc = f"acc[(m*{vectors.size} + n)*{lanes} + q]"
    column = f"po*{pixels.size} + {pixels.start}"
    waiting = f"P[row*{tile.columns} + {column} + m, n, q]"
    index = work.y(f"{tile.vector} + n", "row", f"{column} + m")

    def start() -> None:
        bias = "T.float32(0)" if work.partial else f"B[{tile.vector} + n, q]"
        _nest(source, lanes, each, acc, bias)

    def finish() -> None:
        target = f"{work.into}[{index}]"
        _nest(source, lanes, each, target, work.epilogue.apply(acc, f"R[{index}]"))

    source.local("acc", (pixels.size * vectors.size * lanes,))
    _either(source, tile, "co == 0", start, lambda: _nest(source, lanes, each, acc, waiting))
    variable, extent = work.unrolled
    value = f"{acc} + {work.x('row', f'{column} + m')} * W[{tile.vector} + n, {work.k}, q]"
    heads = [tile.head, *(f"for {name} in range({count})" for name, count in work.loops[1:])]
    _blocks(source, heads, lambda: _nest(source, lanes, [(variable, extent), *each], acc, value))
    last = f"co == {tile.chunks - 1}"
    _either(source, tile, last, finish, lambda: _nest(source, lanes, each, waiting, acc))


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


def _nest(
    source: Source, lanes: int, unrolled: Sequence[tuple[str, int]], target: str, value: str
) -> None:
    heads = [f"for {name} in T.unroll({extent})" for name, extent in unrolled]
    _blocks(source, heads, lambda: source.vector(lanes, target, value))


def _blocks(source: Source, heads: Sequence[str], body: Callable[[], None]) -> None:
    if not heads:
        body()
        return
    with source.block(heads[0]):
        _blocks(source, heads[1:], body)
