"""The matrices of Winograd's minimal filtering: `y = A^T [(G g) * (B^T d)]` gives the m outputs of
a filter of three taps from m + 2 inputs with m + 2 products instead of 3 m.

By Cook and Toom's construction (Winograd, Arithmetic Complexity of Computations, 1980; Lavin and
Gray, arXiv:1509.09308): polynomials are multiplied by their values at m + 1 points and at infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

TAPS = 3
# For m = 4, points at +-sqrt(2) and their inverses: the usual +-1, +-2 make a rounding error four
# times as large (see `growth`).
_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, sqrt(2), -sqrt(2), sqrt(0.5), -sqrt(0.5))}
TILES = tuple(_POINTS)


@dataclass(frozen=True)
class CookToom:
    """F(m, 3), n = m + 2 inputs. Points are 0, pairs of +-p, and infinity, in this order, and so
    are the rows of `filter` and of `input`, and the columns of `output`."""

    filter: Matrix  # G, (n, 3)
    input: Matrix  # B^T, (n, n)
    output: Matrix  # A^T, (m, n)

    @property
    def inputs(self) -> int:
        """Inputs of a tile's side, n."""
        return len(self.input)

    @property
    def growth(self) -> float:
        """How much larger rounding errors are than those of the direct sum, in two dimensions.

        For independent inputs and weights of variance 1, the products summed at point i have
        variance `|B_i|^2 |G_i|^2` each, and output k adds them up with weights `A_ki^2`; the direct
        sum has variance 3. Rounding errors are proportional to what is rounded: the ratio of these
        variances for the worst k is that of the errors in one dimension, squared; two dimensions
        square it again. 1.67 for m = 2, 7.13 for m = 4.
        """
        at_points = (self.input**2).sum(1) * (self.filter**2).sum(1)
        return float((self.output**2 @ at_points).max() / TAPS)


@cache
def cook_toom(m: int) -> CookToom:
    """F(m, 3), m one of TILES."""
    points = _POINTS[m]
    n = m + TAPS - 1
    g, b, a = np.zeros((n, TAPS)), np.zeros((n, n)), np.zeros((m, n))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        scale = np.prod([point - other for other in others])
        g[i] = point ** np.arange(TAPS) / scale
        b[i, : n - 1] = _with_roots(others)
        a[:, i] = point ** np.arange(m)
    g[-1, -1] = a[-1, -1] = 1.0
    b[-1] = _with_roots(points)
    return CookToom(g, _exact(b), _exact(a))


def _with_roots(roots: Sequence[float]) -> Matrix:
    """Coefficients, lowest first, of the monic polynomial with these roots."""
    return np.asarray(np.polynomial.polynomial.polyfromroots(roots), dtype=np.float64)


def _exact(matrix: Matrix) -> Matrix:
    """Quarters that rounding has missed, zero and one among them: they cost less than a product."""
    quarters = np.round(matrix * 4) / 4
    return np.where(np.abs(matrix - quarters) < 1e-12, quarters, matrix)
