"""The two steps of alternating least squares for pointwise followed by depthwise.

Each output channel n has filters d (r, k) and pointwise weights p (r, M) of its own, so that every
channel is a small problem alone: its error is  power_n - 2 <w, Y_n> + w C w'  with
w = sum over t of p_t d_t, quadratic in either while the other is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sepify.factorize.linear import solve_damped
from sepify.factorize.statistics import Moments


@dataclass(frozen=True)
class PointwiseFirst:
    """Pointwise weights (N, r, M) and the filters (N, r, k) of their maps; float64."""

    filters: Tensor
    mix: Tensor

    def errors(self, moments: Moments) -> Tensor:
        """Squared error of each output, (N,): E(y - W u)^2 for the best bias."""
        kernel = torch.einsum("nrm,nrk->nmk", self.mix, self.filters).flatten(1)
        return moments.powers + ((kernel @ moments.covariance - 2 * moments.cross) * kernel).sum(1)

    def improved(self, fit: Moments, damping: float) -> tuple[PointwiseFirst, Tensor]:
        """After one step for the filters and one for the mix; and the errors (N,) then."""
        return solve_mix(solve_filters(self, fit, damping), fit, damping)


def solve_mix(old: Tensor, fit: Moments, damping: float) -> tuple[PointwiseFirst, Tensor]:
    """(d_t' C d_s) p = Y_n d for given filters, each scaled to norm 1: (r*M, r*M) a channel."""
    filters = old / old.norm(dim=2, keepdim=True).clamp_min(1e-30)
    outputs, rank, area = filters.shape
    channels = len(fit.covariance) // area
    covariance = fit.covariance.reshape(channels, area, channels, area)
    mixes, errors = [], []
    for n in range(outputs):  # one at a time: the systems together would not fit
        half = torch.einsum("tk,akbl->tabl", filters[n], covariance)
        gram = torch.einsum("tabl,sl->tasb", half, filters[n]).reshape(rank * channels, -1)
        target = (filters[n] @ fit.cross[n].reshape(channels, area).T).reshape(-1, 1)
        mix = solve_damped(gram, target, damping)
        mixes.append(mix)
        errors.append(fit.powers[n] + ((gram @ mix - 2 * target) * mix).sum())
    mix = torch.stack(mixes).reshape(outputs, rank, channels)
    return PointwiseFirst(filters, mix), torch.stack(errors)


def solve_filters(old: PointwiseFirst, fit: Moments, damping: float) -> Tensor:
    """(p_t' C p_s) d = p Y_n for the given pointwise weights: (r*k, r*k) a channel."""
    outputs, rank, area = old.filters.shape
    channels = old.mix.shape[2]
    covariance = fit.covariance.reshape(channels, area * channels * area)
    solved = []
    for n in range(outputs):
        half = (old.mix[n] @ covariance).reshape(rank, area, channels, area)
        gram = torch.einsum("tkbl,sb->tksl", half, old.mix[n])
        target = old.mix[n] @ fit.cross[n].reshape(channels, area)
        system = gram.reshape(rank * area, -1)
        solved.append(solve_damped(system, target.reshape(-1, 1), damping))
    return torch.stack(solved).reshape(outputs, rank, area)
