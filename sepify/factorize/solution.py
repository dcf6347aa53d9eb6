"""Solved factors, with what they lose."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.factorize.factors import Factors, as_type, with_weights
from sepify.factorize.statistics import Moments

# Relative to the mean of a system's diagonal. It matters little (a percent of the error) unless the
# positions are few beside the unknowns; then the held-out images choose.
DAMPING = 1e-3
DAMPINGS_WHERE_FEW = (1e-3, 1e-2, 1e-1)
MANY = 20  # positions for each element of a patch


@dataclass(frozen=True)
class Solution:
    """Solved factors with the relative squared output error on the inputs they were fitted to,
    on the held-out ones, and the damping that did best on those."""

    factors: Factors
    fitted_error: float
    heldout_error: float
    damping: float


def dampings(fit: Moments) -> tuple[float, ...]:
    """The dampings to try: one where there are many positions."""
    return DAMPINGS_WHERE_FEW if fit.positions < MANY * len(fit.covariance) else (DAMPING,)


def apply_factors(
    factors: Factors, fit: Moments, heldout: Moments, damping: float = 0.0
) -> Solution:
    """Given factors with the best bias for them, and their errors."""
    kernel = as_type(factors, fit.cross.dtype).kernel()
    finished = with_weights(factors, {}, bias=fit.bias(kernel).to(factors.dtype))
    return Solution(finished, fit.error(kernel), heldout.error(kernel), damping)
