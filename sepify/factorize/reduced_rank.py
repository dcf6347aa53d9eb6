"""Low rank: two convolutions M -> R -> N for one, by reduced-rank regression on the inputs.

With W = X C^-1 the least-squares kernel and U the R first eigenvectors of W C W' = X C^-1 X', the
best kernel of rank R is U U' W, exactly (Izenman 1975, theorem 1, with equal weights).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sepify.errors import ConversionError
from sepify.factorize.factors import LowRankFactors
from sepify.factorize.linear import solve_damped
from sepify.factorize.solution import Solution, apply_factors, dampings
from sepify.factorize.statistics import Moments


def solve_low_rank(terms: int, weight: Tensor, fit: Moments, heldout: Moments) -> Solution:
    """The kernel of rank `terms` whose outputs are closest on the moments `fit`; arguments as for
    `solve_bottleneck`."""
    solutions = []
    for damping in dampings(fit):
        full = solve_damped(fit.covariance, fit.cross.T, damping).T  # (N, Mk)
        explained = fit.cross @ full.T
        _, vectors = torch.linalg.eigh(explained + explained.T)
        expand = vectors[:, -terms:]
        factors = _factors(expand.T @ full, expand, weight, None)
        solutions.append(apply_factors(factors, fit, heldout, damping))
    return min(solutions, key=lambda solution: solution.heldout_error)


def factorize_low_rank(weight: Tensor, bias: Tensor | None, terms: int) -> LowRankFactors:
    """The closest kernel of rank `terms` (Eckart and Young 1936). Raises ConversionError if the
    weights hold NaN or infinity."""
    if not torch.isfinite(weight).all():
        raise ConversionError("the weights hold NaN or infinity")
    u, s, vh = torch.linalg.svd(weight.detach().double().flatten(1), full_matrices=False)
    reduce = s[:terms, None] * vh[:terms]
    given = None if bias is None else bias.detach().clone()
    return _factors(reduce, u[:, :terms], weight, given)


def _factors(reduce: Tensor, expand: Tensor, weight: Tensor, bias: Tensor | None) -> LowRankFactors:
    """With the size of each term shared evenly by its two parts."""
    sizes = reduce.norm(dim=1).clamp_min(1e-30).sqrt()
    return LowRankFactors(
        (reduce / sizes[:, None]).reshape(-1, *weight.shape[1:]).to(weight.dtype).contiguous(),
        (expand * sizes)[:, :, None, None].to(weight.dtype).contiguous(),
        bias,
    )
