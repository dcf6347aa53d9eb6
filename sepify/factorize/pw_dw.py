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

AT_ONCE = 2**18  # numbers in the systems that are solved together: they fit into a cache


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
    covariance = _by_channels(fit.covariance, channels)
    cross = fit.cross.reshape(outputs, channels, area)
    mixes, errors = [], []
    for chosen in _few_at_a_time(outputs, (rank * channels) ** 2):
        some = filters[chosen]
        pairs = torch.einsum("ntk,nsl->ntskl", some, some).reshape(-1, area * area)
        gram = (pairs @ covariance.T).reshape(-1, rank, rank, channels, channels)
        gram = gram.transpose(2, 3).reshape(-1, rank * channels, rank * channels)
        target = (some @ cross[chosen].mT).reshape(-1, rank * channels, 1)
        mix = solve_damped(gram, target, damping)
        mixes.append(mix)
        errors.append(fit.powers[chosen] + ((gram @ mix - 2 * target) * mix).sum((1, 2)))
    mix = torch.cat(mixes).reshape(outputs, rank, channels)
    return PointwiseFirst(filters, mix), torch.cat(errors)


def solve_filters(old: PointwiseFirst, fit: Moments, damping: float) -> Tensor:
    """(p_t' C p_s) d = p Y_n for the given pointwise weights: (r*k, r*k) a channel."""
    outputs, rank, area = old.filters.shape
    channels = old.mix.shape[2]
    covariance = _by_channels(fit.covariance, channels).reshape(channels, -1)
    cross = fit.cross.reshape(outputs, channels, area)
    solved = []
    for chosen in _few_at_a_time(outputs, rank * channels * area**2):
        some = old.mix[chosen]
        half = (some.flatten(0, 1) @ covariance).reshape(-1, rank, channels, area * area)
        gram = (some[:, None] @ half).reshape(-1, rank, rank, area, area)
        gram = gram.transpose(2, 3).reshape(-1, rank * area, rank * area)
        target = (some @ cross[chosen]).reshape(-1, rank * area, 1)
        solved.append(solve_damped(gram, target, damping))
    return torch.cat(solved).reshape(outputs, rank, area)


def _by_channels(covariance: Tensor, channels: int) -> Tensor:
    """(M*k, M*k) as (M*M, k*k)."""
    area = len(covariance) // channels
    split = covariance.reshape(channels, area, channels, area)
    return split.transpose(1, 2).reshape(channels**2, area**2)


def _few_at_a_time(outputs: int, each: int) -> list[slice]:
    """Slices of the output channels, whose systems of `each` numbers fit into memory together."""
    step = max(1, AT_ONCE // each)
    return [slice(start, start + step) for start in range(0, outputs, step)]
