"""The transforms of Winograd's convolution as statements: a small constant matrix times vectors in
registers, points `+p` and `-p` sharing what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sepify.compiling.kernels.cook_toom import Matrix
from sepify.compiling.kernels.elements import Element
from sepify.compiling.kernels.source import Source


def to_points(
    source: Source,
    lanes: int,
    matrix: Matrix,
    load: Callable[[int], str],
    store: Callable[[int], str],
) -> None:
    """`store(i) = sum over j of matrix[i, j] * load(j)`, rows being 0, pairs of points, infinity:
    the row of `-p` has the even coefficients of the row of `p`, and the odd ones negated."""
    size = len(matrix)
    d, s = _registers(source, lanes, "d", size), _registers(source, lanes, "s", 2)
    for j in range(size):
        source.vector(lanes, d(j), load(j))
    source.vector(lanes, store(0), _sum(source.element, matrix[0], map(d, range(size))))
    for i in range(1, size - 1, 2):
        for parity in (0, 1):
            half = matrix[i].copy()
            half[1 - parity :: 2] = 0
            source.vector(lanes, s(parity), _sum(source.element, half, map(d, range(size))))
        source.vector(lanes, store(i), f"{s(0)} + {s(1)}")
        source.vector(lanes, store(i + 1), f"{s(0)} - {s(1)}")
    source.vector(lanes, store(size - 1), _sum(source.element, matrix[-1], map(d, range(size))))


def from_points(
    source: Source,
    lanes: int,
    matrix: Matrix,
    load: Callable[[int], str],
    store: Callable[[int, str], None],
) -> None:
    """`store(k, sum over i of matrix[k, i] * load(i))`, columns being 0, pairs of points, infinity:
    a pair's sum serves the even rows, its difference the odd ones. `store` writes the statement."""
    rows, size = matrix.shape
    d = _registers(source, lanes, "d", size)
    for i in range(size):
        source.vector(lanes, d(i), load(i))
    s = _registers(source, lanes, "s", size)
    for i in range(1, size - 1, 2):
        source.vector(lanes, s(i), f"{d(i)} + {d(i + 1)}")
        source.vector(lanes, s(i + 1), f"{d(i)} - {d(i + 1)}")
    for k in range(rows):
        used = [i for i in range(1, size - 1) if i % 2 != k % 2]
        terms = [d(0), *(s(i) for i in used), d(size - 1)]
        weights = [matrix[k, 0], *(matrix[k, i - (k % 2)] for i in used), matrix[k, -1]]
        store(k, _sum(source.element, weights, terms))


def _registers(source: Source, lanes: int, name: str, count: int) -> Callable[[int], str]:
    """`count` vectors; the text of one."""
    source.local(name, (count * lanes,))
    return lambda index: f"{name}[{index * lanes} + q]"


def _sum(element: Element, weights: Iterable[float], terms: Iterable[str]) -> str:
    """The weighted sum of the terms whose weight is not zero, units without a product."""
    text = ""
    # units first: what follows is then fused multiply-adds
    pairs = sorted(
        ((float(w), term) for w, term in zip(weights, terms, strict=True) if w != 0.0),
        key=lambda pair: abs(pair[0]) != 1.0,
    )
    for weight, term in pairs:
        product = term if abs(weight) == 1.0 else f"{element.literal(abs(weight))} * {term}"
        sign = "-" if weight < 0 else "+"
        text = f"{text} {sign} {product}" if text else (product if weight > 0 else f"-{product}")
    return text
