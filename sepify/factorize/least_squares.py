"""Alternating least squares: the separable convolution whose *outputs* are closest to the wanted.

The wanted outputs are the original network's; the inputs are those that the layer meets in the
converted network so far, so that each layer also makes up for the errors before it (asymmetric
reconstruction, Zhang et al. 2015, section 3.3; here for depthwise + pointwise factors).

With C the covariance of the input patches, Y their cross-covariance with the wanted outputs and W
the kernel that the factors multiply out to, the error is  power - 2 <W, Y> + <W C, W>. It is
quadratic in either factor while the other is fixed, so each step solves a linear system exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sepify.factorize.factors import Factors
from sepify.factorize.statistics import Moments

# Relative to the mean of a system's diagonal. It matters little (a percent of the error) unless the
# positions are few beside the unknowns; then the held-out images choose.
DAMPING = 1e-3
DAMPINGS_WHERE_FEW = (1e-3, 1e-2, 1e-1)
MANY = 20  # positions for each element of a patch
ENOUGH = 1e-3  # stop when an iteration takes off less than this share of the error
UNKNOWNS = 1_152  # of the depthwise step that are solved for at a time


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
        trials = {each: _alternate(start, fit, each, 3) for each in DAMPINGS_WHERE_FEW}
        damping = min(trials, key=lambda each: heldout.error(trials[each].kernel()))
    solved = _alternate(start, fit, damping, iterations)
    chosen = min((solved, _double(start)), key=lambda each: heldout.error(each.kernel()))
    like = start.depthwise
    cast = _with(chosen, chosen.depthwise.to(like.dtype), chosen.pointwise.to(like.dtype))
    return apply_factors(cast, fit, heldout, damping)


def apply_factors(
    factors: Factors, fit: Moments, heldout: Moments, damping: float = 0.0
) -> Solution:
    """Given factors with the best bias for them, and their errors."""
    kernel = factors.kernel().double()
    bias = fit.bias(kernel).to(factors.depthwise.dtype)
    finished = Factors(factors.order, factors.rank, factors.depthwise, factors.pointwise, bias)
    return Solution(finished, fit.error(kernel), heldout.error(kernel), damping)


def _alternate(start: Factors, fit: Moments, damping: float, iterations: int) -> Factors:
    factors = _double(start)
    step_depthwise, step_pointwise = (
        (_depthwise_of_dw_pw, _pointwise_of_dw_pw)
        if start.order == "dw-pw"
        else (_depthwise_of_pw_dw, _pointwise_of_pw_dw)
    )
    factors = step_pointwise(factors, fit, damping)
    error = fit.error(factors.kernel())
    for _ in range(iterations):
        factors = step_depthwise(factors, fit, damping)
        factors = step_pointwise(_balanced(factors), fit, damping)
        before, error = error, fit.error(factors.kernel())
        if before - error < ENOUGH * error:
            break
    return factors


def _pointwise_of_dw_pw(factors: Factors, fit: Moments, damping: float) -> Factors:
    """P = Y_z C_z^-1, with C_z and Y_z the moments of the depthwise maps z."""
    filters, (channels, rank, area) = _filters(factors)
    covariance = fit.covariance.reshape(channels, area, channels * area)
    half = torch.einsum("mtk,mkx->mtx", filters, covariance)
    half = half.reshape(channels * rank, channels, area)
    gram = torch.einsum("amk,mtk->amt", half, filters).reshape(channels * rank, -1)
    cross = torch.einsum("nmk,mtk->nmt", fit.cross.reshape(-1, channels, area), filters)
    pointwise = _solve(gram, cross.reshape(len(cross), -1).T, damping).T
    return _with(factors, pointwise=pointwise.reshape(factors.pointwise.shape))


def _depthwise_of_dw_pw(factors: Factors, fit: Moments, damping: float) -> Factors:
    """Term by term, and for many channels a group of them at a time, the others fixed (block
    Gauss-Seidel): H[(m,k), (l,j)] = (p'p)[m, l] C[(m,k), (l,j)], p the term's pointwise weights."""
    filters, (channels, rank, area) = _filters(factors)
    filters = filters.clone()
    mix = factors.pointwise.reshape(-1, channels, rank)
    covariance = fit.covariance.reshape(channels, area, channels, area)
    residual = fit.cross - factors.kernel().flatten(1) @ fit.covariance  # (N, M*k)
    for term in range(rank):
        for group in torch.arange(channels).split(max(1, UNKNOWNS // area)):
            some = slice(int(group[0]), int(group[-1]) + 1)
            rows = slice(some.start * area, some.stop * area)
            weights = mix[:, some, term]  # (N, m)
            gram = weights.T @ weights
            system = gram[:, None, :, None] * covariance[some, :, some]
            slope = torch.einsum("nm,nmk->mk", weights, _patches(residual[:, rows], area))
            old = filters[some, term].reshape(-1, 1)
            square = system.reshape(len(old), len(old))
            new = _solve(square, slope.reshape(-1, 1) + square @ old, damping)
            change = (new - old).reshape(-1, area)
            filters[some, term] += change
            residual -= (weights[:, :, None] * change).flatten(1) @ fit.covariance[rows]
    return _with(factors, depthwise=filters.reshape(factors.depthwise.shape))


def _patches(flat: Tensor, area: int) -> Tensor:
    """(N, m*k) as (N, m, k)."""
    return flat.reshape(len(flat), -1, area)


def _pointwise_of_pw_dw(factors: Factors, fit: Moments, damping: float) -> Factors:
    """Each output channel alone: (d_t' C d_s) p = Y_n d, an (r*M, r*M) system for each."""
    outputs, rank = factors.depthwise.shape[:2]
    filters = factors.depthwise.flatten(2)  # (N, r, k)
    channels, area = factors.pointwise.shape[1], filters.shape[2]
    covariance = fit.covariance.reshape(channels, area, channels, area)
    solved = []
    for n in range(outputs):  # one at a time: the systems together would not fit
        half = torch.einsum("tk,akbl->tabl", filters[n], covariance)
        gram = torch.einsum("tabl,sl->tasb", half, filters[n])
        target = filters[n] @ fit.cross[n].reshape(channels, area).T  # (r, M)
        size = rank * channels
        solved.append(_solve(gram.reshape(size, size), target.reshape(size, 1), damping))
    return _with(factors, pointwise=torch.cat(solved).reshape(factors.pointwise.shape))


def _depthwise_of_pw_dw(factors: Factors, fit: Moments, damping: float) -> Factors:
    """Each output channel alone: (p_t' C p_s) d = p Y_n, an (r*k, r*k) system for each."""
    outputs, rank = factors.depthwise.shape[:2]
    area = factors.depthwise[0, 0].numel()
    mix = factors.pointwise.reshape(outputs, rank, -1)  # (N, r, M)
    channels = mix.shape[2]
    covariance = fit.covariance.reshape(channels, area * channels * area)
    size = rank * area
    solved = []
    for n in range(outputs):
        half = (mix[n] @ covariance).reshape(rank, area, channels, area)
        gram = torch.einsum("tkbl,sb->tksl", half, mix[n])
        target = mix[n] @ fit.cross[n].reshape(channels, area)
        solved.append(_solve(gram.reshape(size, size), target.reshape(size, 1), damping))
    return _with(factors, depthwise=torch.stack(solved).reshape(factors.depthwise.shape))


def _solve(system: Tensor, target: Tensor, damping: float) -> Tensor:
    """(system + damping * mean diagonal) x = target, for a positive semi-definite system.

    Where Cholesky finds it not positive (constant channels, dead ReLUs, rounding), the damping is
    raised tenfold until it is: directions that carry nothing get no weight.
    """
    scale = system.diagonal().mean()
    if scale <= 0:  # nothing varies: no weights explain anything
        return torch.zeros_like(target)
    while True:
        damped = system.clone()
        damped.diagonal().add_(damping * scale)
        lower, info = torch.linalg.cholesky_ex(damped)
        if info == 0:
            return torch.cholesky_solve(target, lower)
        damping *= 10


def _filters(factors: Factors) -> tuple[Tensor, tuple[int, int, int]]:
    """Depthwise filters of dw-pw as (M, r, k), and that shape."""
    filters = factors.depthwise.reshape(-1, factors.rank, factors.depthwise[0, 0].numel())
    return filters, (filters.shape[0], filters.shape[1], filters.shape[2])


def _balanced(factors: Factors) -> Factors:
    """Filters scaled to norm 1; the pointwise step that follows takes the scale up."""
    norms = factors.depthwise.flatten(2).norm(dim=2)[:, :, None, None]
    return _with(factors, depthwise=factors.depthwise / norms.clamp_min(1e-30))


def _with(
    factors: Factors, depthwise: Tensor | None = None, pointwise: Tensor | None = None
) -> Factors:
    return Factors(
        factors.order,
        factors.rank,
        factors.depthwise if depthwise is None else depthwise,
        factors.pointwise if pointwise is None else pointwise,
        None,
    )


def _double(factors: Factors) -> Factors:
    return _with(factors, factors.depthwise.double(), factors.pointwise.double())
