"""Alternating least squares: the separable convolution whose *outputs* are closest to the wanted.

The wanted outputs are the original network's; the inputs are those that the layer meets in the
converted network so far, so that each layer also makes up for the errors before it (asymmetric
reconstruction, Zhang et al. 2015, section 3.3; here for depthwise + pointwise factors). The error
is quadratic in either factor while the other is fixed; `dw_pw` and `pw_dw` hold the two steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sepify.factorize.dw_pw import DepthwiseFirst
from sepify.factorize.dw_pw import solve_mix as solve_mix_of_dw_pw
from sepify.factorize.factors import Factors
from sepify.factorize.pw_dw import PointwiseFirst
from sepify.factorize.pw_dw import solve_mix as solve_mix_of_pw_dw
from sepify.factorize.statistics import Moments

# Relative to the mean of a system's diagonal. It matters little (a percent of the error) unless the
# positions are few beside the unknowns; then the held-out images choose.
DAMPING = 1e-3
DAMPINGS_WHERE_FEW = (1e-3, 1e-2, 1e-1)
MANY = 20  # positions for each element of a patch
ENOUGH = 1e-3  # stop when an iteration takes off less than this share of the error


Halves = DepthwiseFirst | PointwiseFirst


@dataclass(frozen=True)
class Solution:
    """Solved factors with the relative squared output error on the inputs they were fitted to,
    on the held-out ones, and the damping that did best on those."""

    factors: Factors
    fitted_error: float
    heldout_error: float
    damping: float


def solve_least_squares(
    start: Factors, fit: Moments, heldout: Moments, iterations: int = 30
) -> Solution:
    """Improve `start` on the moments `fit`, for `iterations` at most.

    With few positions, the damping that does best on the moments `heldout` is taken. Never worse
    than `start` on `heldout`. Float64 inside; dtype and device of `start` are kept.
    """
    damping = DAMPING
    if fit.positions < MANY * len(fit.covariance):
        trials = {each: _begun(start, fit, each) for each in DAMPINGS_WHERE_FEW}
        damping = min(trials, key=lambda each: _relative(trials[each][0], heldout))
        begun = trials[damping]
    else:
        begun = _begun(start, fit, damping)
    solved = _alternate(begun, fit, damping, iterations - 1)
    if _relative(solved, heldout) > _relative(_split(start), heldout):
        solved = _split(start)
    return apply_factors(_joined(solved, start), fit, heldout, damping)


def apply_factors(
    factors: Factors, fit: Moments, heldout: Moments, damping: float = 0.0
) -> Solution:
    """Given factors with the best bias for them, and their errors."""
    halves = _split(factors)
    bias = fit.bias(factors.kernel().double()).to(factors.depthwise.dtype)
    finished = Factors(factors.order, factors.rank, factors.depthwise, factors.pointwise, bias)
    fitted, unseen = (_relative(halves, moments) for moments in (fit, heldout))
    return Solution(finished, fitted, unseen, damping)


def _begun(start: Factors, fit: Moments, damping: float) -> tuple[Halves, Tensor]:
    """After the first iteration: both halves and the errors of the outputs."""
    solve_mix = solve_mix_of_dw_pw if start.order == "dw-pw" else solve_mix_of_pw_dw
    solved: Halves = solve_mix(_split(start).filters, fit, damping)[0]
    return solved.improved(fit, damping)


def _alternate(
    begun: tuple[Halves, Tensor], fit: Moments, damping: float, iterations: int
) -> Halves:
    solved, errors = begun
    for _ in range(iterations):
        before = float(errors.sum())
        solved, errors = solved.improved(fit, damping)
        if before - float(errors.sum()) < ENOUGH * before:
            break
    return solved


def _relative(halves: Halves, moments: Moments) -> float:
    if moments.power <= 0:
        return 0.0
    return max(0.0, float(halves.errors(moments).sum())) / moments.power


def _split(factors: Factors) -> Halves:
    """The filters (channels, r, k) and the mix, in float64."""
    rank = factors.rank
    filters = factors.depthwise.double().flatten(1)
    mix = factors.pointwise.double().flatten(1)
    if factors.order == "dw-pw":
        return DepthwiseFirst(filters.reshape(-1, rank, filters.shape[1]), mix)
    filters = filters.reshape(len(filters), rank, -1)
    return PointwiseFirst(filters, mix.reshape(-1, rank, mix.shape[1]))


def _joined(halves: Halves, like: Factors) -> Factors:
    """As factors, in the shapes and the dtype of `like`."""
    dtype = like.depthwise.dtype
    depthwise = halves.filters.reshape(like.depthwise.shape).to(dtype)
    pointwise = halves.mix.reshape(like.pointwise.shape).to(dtype)
    return Factors(like.order, like.rank, depthwise, pointwise, None)
