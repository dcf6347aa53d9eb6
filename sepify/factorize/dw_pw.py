"""The two steps of alternating least squares for depthwise followed by pointwise.

With C and Y the covariance and cross-covariance of `Moments`, depthwise filters d (M, r, k) and
pointwise weights P (N, M*r), the error is  power - 2 <P, Y_z> + <P C_z, P>  where C_z and Y_z are
the moments of the depthwise maps z. It is quadratic in d for fixed P, and in P for fixed d.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sepify.factorize.linear import Operator, block_jacobi, conjugate_gradients, solve_damped
from sepify.factorize.statistics import Moments

# The depthwise step stops here; the pointwise one that follows moves the optimum anyway
TOLERANCE = 1e-3
MOST_STEPS = 30


@dataclass(frozen=True)
class DepthwiseFirst:
    """Filters (M, r, k) and the pointwise weights (N, M*r) that mix their maps; float64."""

    filters: Tensor
    mix: Tensor

    def errors(self, moments: Moments) -> Tensor:
        """Squared error of each output, (N,): E(y - P z)^2 for the best bias."""
        gram, cross = _maps(self.filters, moments)
        return _errors(self.mix, gram, cross, moments)

    def improved(self, fit: Moments, damping: float) -> tuple[DepthwiseFirst, Tensor]:
        """After one step for the filters and one for the mix; and the errors (N,) then."""
        return solve_mix(solve_filters(self, fit, damping), fit, damping)


def solve_mix(filters: Tensor, fit: Moments, damping: float) -> tuple[DepthwiseFirst, Tensor]:
    """P = Y_z C_z^-1 for the given filters, each scaled to norm 1; and the errors (N,)."""
    filters = filters / filters.norm(dim=2, keepdim=True).clamp_min(1e-30)
    gram, cross = _maps(filters, fit)
    mix = solve_damped(gram, cross.T, damping).T
    return DepthwiseFirst(filters, mix), _errors(mix, gram, cross, fit)


def solve_filters(old: DepthwiseFirst, fit: Moments, damping: float) -> Tensor:
    """Filters (M, r, k) for the given mix:

    H d = b,  H[(m,t,k), (l,s,j)] = (P'P)[(m,t), (l,s)] C[(m,k), (l,j)],
    b[m,t,k] = sum over n of P[n,(m,t)] Y[n,(m,k)].

    H is never formed: conjugate gradients from the old filters, preconditioned by each channel's
    own (r*k, r*k) block.
    """
    channels, rank, area = old.filters.shape
    gram = old.mix.T @ old.mix
    covariance = fit.covariance.reshape(channels, area, channels * area)
    wanted = torch.bmm(
        old.mix.reshape(-1, channels, rank).permute(1, 2, 0),
        fit.cross.reshape(-1, channels, area).permute(1, 0, 2),
    )
    own_gram = _own_blocks(gram, rank)
    own_covariance = _own_blocks(fit.covariance, area)
    blocks = torch.einsum("mts,mkj->mtksj", own_gram, own_covariance)
    blocks = blocks.reshape(channels, rank * area, rank * area)
    added = damping * float(blocks.diagonal(dim1=1, dim2=2).mean())
    if added <= 0:  # nothing varies, or nothing is wanted
        return old.filters

    def apply(filters: Tensor) -> Tensor:
        half = torch.bmm(filters, covariance).reshape(channels * rank, channels, area)
        mixed = torch.bmm(gram.reshape(channels, rank, -1), half.transpose(0, 1))
        return mixed + added * filters

    blocks.diagonal(dim1=1, dim2=2).add_(added)
    operator = Operator(apply, block_jacobi(blocks))
    return conjugate_gradients(operator, wanted, old.filters, TOLERANCE, MOST_STEPS)


def _maps(filters: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
    """C_z (Mr, Mr) and Y_z (N, Mr) of the depthwise maps."""
    channels, rank, area = filters.shape
    half = torch.bmm(filters, moments.covariance.reshape(channels, area, channels * area))
    half = half.reshape(channels * rank, channels, area)
    gram = torch.bmm(half.transpose(0, 1), filters.transpose(1, 2)).transpose(0, 1)
    cross = torch.bmm(
        moments.cross.reshape(-1, channels, area).transpose(0, 1), filters.transpose(1, 2)
    ).transpose(0, 1)
    return gram.reshape(channels * rank, -1), cross.reshape(len(moments.cross), -1)


def _errors(mix: Tensor, gram: Tensor, cross: Tensor, moments: Moments) -> Tensor:
    return moments.powers + ((mix @ gram - 2 * cross) * mix).sum(1)


def _own_blocks(matrix: Tensor, size: int) -> Tensor:
    """The (size, size) blocks on the diagonal, (number, size, size)."""
    number = len(matrix) // size
    blocks = matrix.reshape(number, size, number, size).diagonal(dim1=0, dim2=2)
    return blocks.permute(2, 0, 1)
