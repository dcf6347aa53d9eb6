"""Variable projection: a chain whose last part is linear in a few features of the patch.

With features z = Z u of an input patch u, and the last part's weights B, the error of the outputs
is quadratic in B for fixed Z, and least at B = X Z' (Z C Z')^-1, with C and X the covariance and
cross-covariance of `Moments`. What is left is a function of Z alone (Golub and Pereyra 1973,
section 2):

    error(Z) = power - tr(X Z' (Z C Z' + damping)^-1 Z X')

which L-BFGS takes down. Z is given by a form's own parameters; features count at unit variance, so
that the damping treats them alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sepify.factorize.factors import Factors, as_type
from sepify.factorize.linear import solve_damped
from sepify.factorize.solution import Solution, apply_factors, dampings
from sepify.factorize.statistics import Moments

STEPS = 150  # 50 leave errors 7 to 15 % higher, 500 take another 3 % off (ResNet-20)
FEWEST_STEPS = 15
HISTORY = 20
TRIED_STEPS = 5  # with each damping, where several are tried
# Multiply-adds for one layer: beyond it, fewer steps are taken.
MOST_WORK = 3e11
WIDE = 1_024  # elements of a patch from which on float32 is used: the moments' own precision
TINY = 1e-30


class Features(ABC):
    """The features of one form: parameters, and how they make the rows of Z."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[Tensor, ...]:
        """What is free in them."""

    @abstractmethod
    def with_parameters(self, parameters: Sequence[Tensor]) -> Features:
        """The same with other parameters, differentiable in them."""

    @abstractmethod
    def rows(self) -> Tensor:
        """Z (features, M*kh*kw)."""

    @abstractmethod
    def factors(self, mix: Tensor) -> Factors:
        """The factors with B = `mix`, (N, features), without a bias."""


@dataclass(frozen=True)
class _Problem:
    """The moments in the precision that the steps are taken in."""

    covariance: Tensor
    cross: Tensor
    power: float
    damping: float

    def error(self, rows: Tensor) -> Tensor:
        """The relative squared error that is left for these rows."""
        half = rows @ self.covariance
        scale = (half * rows).sum(1).clamp_min(TINY).rsqrt()
        gram = (half @ rows.T) * scale * scale[:, None]
        gram.diagonal().add_(self.damping)
        lower, _ = torch.linalg.cholesky_ex(gram)
        explained = torch.linalg.solve_triangular(
            lower, scale[:, None] * (rows @ self.cross.T), upper=False
        )
        error: Tensor = 1 - explained.square().sum() / self.power
        return error


def solve_features(
    start: Features,
    fit: Moments,
    heldout: Moments,
    steps: int = STEPS,
    dtype: torch.dtype = torch.float32,
) -> Solution:
    """The factors, in `dtype`, that `start` leads to in `steps` steps at most.

    Never worse than those of `start` on the moments `heldout`. Raises ConversionError where the
    moments hold NaN or infinity.
    """
    if fit.power <= 0:
        return _finished(start, fit, heldout, dampings(fit)[0], dtype)
    steps = max(min(steps, int(MOST_WORK / _work(start, fit))), min(steps, FEWEST_STEPS))
    tried = dampings(fit)
    damping = tried[0]
    begun = start
    if len(tried) > 1:
        trials = {each: descend(start, fit, each, TRIED_STEPS) for each in tried}
        ends = {each: _finished(trials[each], fit, heldout, each, dtype) for each in tried}
        damping = min(ends, key=lambda each: ends[each].heldout_error)
        begun = trials[damping]
    found = descend(begun, fit, damping, steps)
    solutions = [_finished(each, fit, heldout, damping, dtype) for each in (found, start)]
    return min(solutions, key=lambda solution: solution.heldout_error)


def descend(start: Features, fit: Moments, damping: float, steps: int) -> Features:
    """`start` after so many steps of L-BFGS (Liu and Nocedal 1989) with a strong Wolfe search."""
    dtype = torch.float32 if len(fit.covariance) >= WIDE else torch.float64
    problem = _Problem(fit.covariance.to(dtype), fit.cross.to(dtype), fit.power, damping)
    parameters = [each.detach().to(dtype).clone().requires_grad_() for each in start.parameters]
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=steps,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_change=1e-8,
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        error = problem.error(start.with_parameters(parameters).rows())
        error.backward()
        return error

    with torch.enable_grad():
        optimiser.step(loss)
    if not all(bool(each.isfinite().all()) for each in parameters):
        return start
    return start.with_parameters([each.detach().double() for each in parameters])


def best_mix(rows: Tensor, fit: Moments, damping: float) -> Tensor:
    """B = X Z' (Z C Z')^-1, (N, features), for the rows Z; damped at unit variance."""
    half = rows @ fit.covariance
    scale = (half * rows).sum(1).clamp_min(TINY).rsqrt()
    gram = (half @ rows.T) * scale * scale[:, None]
    return solve_damped(gram, (scale * (fit.cross @ rows.T)).T, damping).T * scale


def roots_of(second: Tensor, damping: float = 1e-3) -> tuple[Tensor, Tensor]:
    """C^(1/2) and C^(-1/2) of damped second moments: in the coordinates that they lead to, all
    directions move the output about alike."""
    values, vectors = torch.linalg.eigh(second)
    mean = float(values.clamp_min(0).mean())
    spread = (values.clamp_min(0) + damping * mean).clamp_min(TINY).sqrt()
    return (vectors * spread) @ vectors.T, (vectors / spread) @ vectors.T


def _finished(
    features: Features, fit: Moments, heldout: Moments, damping: float, dtype: torch.dtype
) -> Solution:
    rows = features.rows().detach()
    factors = as_type(features.factors(best_mix(rows, fit, damping)), dtype)
    return replace(apply_factors(factors, fit, heldout), damping=damping)


def _work(features: Features, fit: Moments) -> float:
    """Multiply-adds of one step, the gradient included."""
    return 3.0 * len(features.rows()) * len(fit.covariance) ** 2
