"""Columns, then rows: kh x 1 M -> R, then 1 x kw R -> N (Jaderberg et al. 2014, section 2.2).

On data it is solved by variable projection: the features of a patch are the R columns' answers at
each of its kw places, and the rows mix them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sepify.errors import ConversionError
from sepify.factorize.factors import SpatialFactors
from sepify.factorize.linear import solve_damped
from sepify.factorize.solution import DAMPING, Solution
from sepify.factorize.statistics import Moments
from sepify.factorize.variable_projection import STEPS, Features, roots_of, solve_features

TINY = 1e-30


@dataclass(frozen=True)
class Columns(Features):
    """Columns (R, M*kh), in coordinates that `back` (M*kh, M*kh) leads back from."""

    columns: Tensor
    back: Tensor
    shape: tuple[int, int, int]  # M, kh, kw

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The columns."""
        return (self.columns,)

    def with_parameters(self, parameters: Sequence[Tensor]) -> Columns:
        """The same with others."""
        return replace(self, columns=parameters[0])

    def rows(self) -> Tensor:
        """Z (R*kw, M*kh*kw): each column at each place across."""
        channels, kh, kw = self.shape
        flat = self.columns @ self.back.to(self.columns.dtype)
        columns = flat.reshape(-1, channels, kh)
        places = torch.eye(kw, dtype=columns.dtype, device=columns.device)
        return torch.einsum("tmi,jw->tjmiw", columns, places).reshape(len(columns) * kw, -1)

    def factors(self, mix: Tensor) -> SpatialFactors:
        """Both parts of a term take an even share of its size."""
        channels, kh, kw = self.shape
        columns = self.columns @ self.back
        across = mix.reshape(len(mix), -1, kw)  # (N, R, kw)
        sizes = columns.norm(dim=1).clamp_min(TINY), across.norm(dim=(0, 2)).clamp_min(TINY)
        share = (sizes[0] * sizes[1]).sqrt()
        vertical = columns * (share / sizes[0])[:, None]
        horizontal = across * (share / sizes[1])[:, None]
        return SpatialFactors(
            vertical.reshape(-1, channels, kh, 1).contiguous(),
            horizontal[:, :, None, :].contiguous(),
            None,
        )


def solve_spatial(
    terms: int, weight: Tensor, fit: Moments, heldout: Moments, steps: int = STEPS
) -> Solution:
    """The `terms` columns and rows whose outputs are closest on the moments `fit`; arguments as
    for `solve_bottleneck`."""
    channels, kh, kw = weight.shape[1:]
    full = solve_damped(fit.covariance, fit.cross.T, DAMPING).T.reshape(-1, channels, kh, kw)
    metric = fit.covariance.reshape(channels * kh, kw, channels * kh, kw)
    root, inverse = roots_of(metric.diagonal(dim1=1, dim2=3).mean(2))
    start = Columns(_leading_columns(full, terms, root), inverse, (channels, kh, kw))
    return solve_features(start, fit, heldout, steps, weight.dtype)


def factorize_spatial(weight: Tensor, bias: Tensor | None, terms: int) -> SpatialFactors:
    """The closest columns and rows to a kernel (N, M, kh, kw): the leading singular triplets of its
    unfolding (M*kh, N*kw). Raises ConversionError if the weights hold NaN or infinity."""
    if not torch.isfinite(weight).all():
        raise ConversionError("the weights hold NaN or infinity")
    channels, kh, kw = weight.shape[1:]
    kernel = weight.detach().double()
    eye = torch.eye(channels * kh).to(kernel)
    columns = _leading_columns(kernel, terms, eye)
    across = torch.einsum("tp,npj->ntj", columns, kernel.reshape(-1, channels * kh, kw))
    made = Columns(columns, eye, (channels, kh, kw)).factors(across.flatten(1))
    given = None if bias is None else bias.detach().clone()
    moved = {role: part.to(weight.dtype) for role, part in made.weights.items()}
    return SpatialFactors(**moved, bias=given)


def _leading_columns(kernel: Tensor, terms: int, root: Tensor) -> Tensor:
    """The `terms` leading left singular vectors, as rows, of the unfolding in the metric of
    `root`."""
    unfolded = kernel.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)  # (M*kh, N*kw)
    u = torch.linalg.svd(root @ unfolded, full_matrices=False)[0]
    if terms > u.shape[1]:
        raise ConversionError(f"{terms} terms are more than a kernel {tuple(kernel.shape)} has")
    leading: Tensor = u[:, :terms].T.contiguous()
    return leading
