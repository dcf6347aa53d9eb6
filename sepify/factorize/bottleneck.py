"""The bottleneck: pointwise M -> R, depthwise on R channels, pointwise R -> N, all linear.

A term t sees row z_t = a_t x f_t of the patch, with a_t over the channels and f_t over the taps;
the last pointwise part mixes the terms. On data it is solved by variable projection; without, by
starting from CP of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sepify.errors import ConversionError
from sepify.factorize.factors import BottleneckFactors
from sepify.factorize.linear import solve_damped
from sepify.factorize.solution import DAMPING, Solution
from sepify.factorize.statistics import Moments
from sepify.factorize.variable_projection import STEPS, Features, roots_of, solve_features

TINY = 1e-30


@dataclass(frozen=True)
class Terms(Features):
    """Channel mixes `mixes` (R, M), in coordinates that `back` (M, M) leads back from, and filters
    (R, kh*kw); both are scaled to norm 1."""

    mixes: Tensor
    filters: Tensor
    back: Tensor
    window: tuple[int, int]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Mixes and filters."""
        return self.mixes, self.filters

    def with_parameters(self, parameters: Sequence[Tensor]) -> Terms:
        """The same with others."""
        mixes, filters = parameters
        return replace(self, mixes=mixes, filters=filters)

    def rows(self) -> Tensor:
        """Z (R, M*kh*kw)."""
        mixes = self.mixes @ self.back.to(self.mixes.dtype)
        return (mixes[:, :, None] * self.filters[:, None, :]).flatten(1)

    def factors(self, mix: Tensor) -> BottleneckFactors:
        """Each part of a term takes an even share of its size."""
        mixes = self.mixes @ self.back
        sizes = [part.norm(dim=1).clamp_min(TINY) for part in (mixes, self.filters, mix.T)]
        share = (sizes[0] * sizes[1] * sizes[2]).clamp_min(TINY).pow(1 / 3)
        reduce = mixes * (share / sizes[0])[:, None]
        depthwise = self.filters * (share / sizes[1])[:, None]
        expand = mix * (share / sizes[2])
        return BottleneckFactors(
            reduce[:, :, None, None].contiguous(),
            depthwise.reshape(-1, 1, *self.window).contiguous(),
            expand[:, :, None, None].contiguous(),
            None,
        )


def solve_bottleneck(
    terms: int, weight: Tensor, fit: Moments, heldout: Moments, steps: int = STEPS
) -> Solution:
    """The bottleneck of `terms` channels whose outputs are closest on the moments `fit`.

    Args:
        terms: R, channels of the two middle maps.
        weight: The standard kernel (N, M, kh, kw), for its shape and dtype.
        fit, heldout: Moments of the layer.
        steps: L-BFGS steps at most; wide layers take fewer.
    """
    channels, kh, kw = weight.shape[1:]
    taps = kh * kw
    full = solve_damped(fit.covariance, fit.cross.T, DAMPING).T.reshape(-1, channels, taps)
    metric = fit.covariance.reshape(channels, taps, channels, taps)
    mixes, filters = leading_slices(full, metric, terms)
    root, inverse = roots_of(metric.diagonal(dim1=1, dim2=3).mean(2))
    mixes = mixes @ root
    start = Terms(
        mixes / mixes.norm(dim=1, keepdim=True).clamp_min(TINY),
        filters / filters.norm(dim=1, keepdim=True).clamp_min(TINY),
        inverse,
        (kh, kw),
    )
    return solve_features(start, fit, heldout, steps, weight.dtype)


def factorize_bottleneck(weight: Tensor, bias: Tensor | None, terms: int) -> BottleneckFactors:
    """A bottleneck for a kernel (N, M, kh, kw) alone: its leading slices, mixed by least squares on
    the weights. Raises ConversionError if the weights hold NaN or infinity."""
    if not torch.isfinite(weight).all():
        raise ConversionError("the weights hold NaN or infinity")
    outs, channels, kh, kw = weight.shape
    kernel = weight.detach().double().reshape(outs, channels, kh * kw)
    mixes, filters = leading_slices(kernel, None, terms)
    made = Terms(mixes, filters, torch.eye(channels).to(kernel), (kh, kw))
    rows = made.rows()
    mix = solve_damped(rows @ rows.T, rows @ kernel.flatten(1).T, 1e-9).T
    found = made.factors(mix)
    given = None if bias is None else bias.detach().clone()
    moved = {role: part.to(weight.dtype) for role, part in found.weights.items()}
    return BottleneckFactors(**moved, bias=given)


def leading_slices(kernel: Tensor, metric: Tensor | None, terms: int) -> tuple[Tensor, Tensor]:
    """Channel mixes (R, M) and filters (R, k) of the largest slices of a kernel (N, M, k).

    Rotated to its k spatial principal filters, the kernel is k matrices (N, M); of the singular
    triplets of all of them, in the metric (M, k, M, k) of the inputs so filtered, the R largest.
    """
    _, basis = torch.linalg.eigh(torch.einsum("nmk,nmj->kj", kernel, kernel))
    sizes, mixes, filters = [], [], []
    for taps in basis.T:
        matrix = kernel @ taps
        if metric is None:
            _, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        else:
            half = torch.einsum("mkld,d->mkl", metric, taps)
            root, inverse = roots_of(torch.einsum("mkl,k->ml", half, taps))
            _, s, vh = torch.linalg.svd(matrix @ root, full_matrices=False)
            vh = vh @ inverse
        sizes.append(s)
        mixes.append(vh)
        filters.append(taps.expand(len(s), -1))
    order = torch.cat(sizes).argsort(descending=True)[:terms]
    chosen_mixes, chosen_filters = torch.cat(mixes)[order], torch.cat(filters)[order]
    if len(order) < terms:
        raise ConversionError(f"{terms} terms are more than a kernel {tuple(kernel.shape)} has")
    return chosen_mixes, chosen_filters
