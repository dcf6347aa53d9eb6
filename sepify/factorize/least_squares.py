"""Alternating least squares: the separable convolution whose *outputs* are closest to the wanted.

The wanted outputs are the original network's; the inputs are those that the layer meets in the
converted network so far, so that each layer also makes up for the errors before it (asymmetric
reconstruction, Zhang et al. 2015, section 3.3; here for depthwise + pointwise factors). The error
is quadratic in either factor while the other is fixed; `dw_pw` and `pw_dw` hold the two steps.
"""

from __future__ import annotations

from torch import Tensor

from sepify.factorize.dw_pw import DepthwiseFirst
from sepify.factorize.dw_pw import solve_mix as solve_mix_of_dw_pw
from sepify.factorize.factors import SeparableFactors
from sepify.factorize.pw_dw import PointwiseFirst
from sepify.factorize.pw_dw import solve_mix as solve_mix_of_pw_dw
from sepify.factorize.solution import Solution, apply_factors, dampings
from sepify.factorize.statistics import Moments

ENOUGH = 1e-3  # stop when an iteration takes off less than this share of the error


Halves = DepthwiseFirst | PointwiseFirst


def solve_least_squares(
    start: SeparableFactors, fit: Moments, heldout: Moments, iterations: int = 30
) -> Solution:
    """Improve `start` on the moments `fit`, for `iterations` at most.

    With few positions, the damping that does best on the moments `heldout` is taken. Never worse
    than `start` on `heldout`. Float64 inside; dtype and device of `start` are kept.
    """
    trials = {each: _begun(start, fit, each) for each in dampings(fit)}
    damping = min(trials, key=lambda each: _relative(trials[each][0], heldout))
    solved = _alternate(trials[damping], fit, damping, iterations - 1)
    if _relative(solved, heldout) > _relative(_split(start), heldout):
        solved = _split(start)
    return apply_factors(_joined(solved, start), fit, heldout, damping)


def _begun(start: SeparableFactors, fit: Moments, damping: float) -> tuple[Halves, Tensor]:
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


def _split(factors: SeparableFactors) -> Halves:
    """The filters (channels, r, k) and the mix, in float64."""
    rank = factors.rank
    filters = factors.depthwise.double().flatten(1)
    mix = factors.pointwise.double().flatten(1)
    if factors.order == "dw-pw":
        return DepthwiseFirst(filters.reshape(-1, rank, filters.shape[1]), mix)
    filters = filters.reshape(len(filters), rank, -1)
    return PointwiseFirst(filters, mix.reshape(-1, rank, mix.shape[1]))


def _joined(halves: Halves, like: SeparableFactors) -> SeparableFactors:
    """As factors, in the shapes and the dtype of `like`."""
    dtype = like.depthwise.dtype
    depthwise = halves.filters.reshape(like.depthwise.shape).to(dtype)
    pointwise = halves.mix.reshape(like.pointwise.shape).to(dtype)
    return SeparableFactors(like.order, like.rank, depthwise, pointwise, None)
