"""How the weights of each form are found: a row for every form that rewrites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sepify.factorize.bottleneck import factorize_bottleneck, solve_bottleneck
from sepify.factorize.factors import Factors, SeparableFactors
from sepify.factorize.least_squares import solve_least_squares
from sepify.factorize.reduced_rank import factorize_low_rank, solve_low_rank
from sepify.factorize.solution import Solution
from sepify.factorize.spatial import factorize_spatial, solve_spatial
from sepify.factorize.statistics import Moments
from sepify.factorize.svd import factorize_svd, svd_error
from sepify.plans.chains import Bottleneck, LowRank, Spatial
from sepify.plans.form import Form, Kernel
from sepify.plans.forms import Separate

ITERATIONS = 30  # of alternating least squares
STEPS_EACH = 5  # L-BFGS steps for each of them


@dataclass(frozen=True)
class Solver:
    """The solver of one form.

    Args:
        factorize: Finds the factors for a form, a weight (N, M, kh, kw) and a bias (N,) or None,
            without any data.
        solve: Finds those whose outputs are closest, for a form, a weight, the moments to fit,
            those held out, and how many iterations it may take; None for alternating least squares
            from `factorize`.
        error: Gives the share of the kernel's squared Frobenius norm that `factorize` loses, 0 to
            1; None where nothing quicker is known than to factorize.
        work: Estimates the multiply-adds of one step on data for a form and a kernel, where they
            matter beside all else.
    """

    factorize: Callable[[Any, Tensor, Tensor | None], Factors]
    solve: Callable[[Any, Tensor, Moments, Moments, int], Solution] | None = None
    error: Callable[[Any, Tensor], float] | None = None
    work: Callable[[Any, Kernel], float] = lambda form, kernel: 0.0


def factorize(form: Form, weight: Tensor, bias: Tensor | None) -> Factors:
    """Find the factors of `form` for a kernel, without any data.

    Args:
        form: A form that rewrites.
        weight: The kernel, (N, M, kh, kw).
        bias: The bias, (N,), or None.

    Raises:
        ConversionError: The weights are not finite, or do not suit the form.
    """
    return SOLVERS[type(form)].factorize(form, weight, bias)


def solve_form(
    form: Form, weight: Tensor, fit: Moments, heldout: Moments, iterations: int = ITERATIONS
) -> Solution:
    """The factors of `form` whose outputs are closest on the moments `fit`.

    Raises:
        ConversionError: The moments or the weights are not finite.
    """
    solve = SOLVERS[type(form)].solve
    if solve is not None:
        return solve(form, weight, fit, heldout, iterations)
    start = factorize(form, weight, None)
    assert isinstance(start, SeparableFactors), "other factors need a solver of their own"
    return solve_least_squares(start, fit, heldout, iterations)


def weight_error(form: Form, weight: Tensor) -> float:
    """The share of the kernel's squared Frobenius norm that `factorize` loses, 0 to 1."""
    error = SOLVERS[type(form)].error
    if error is not None:
        return error(form, weight)
    kernel = weight.detach().double()
    total = float(kernel.square().sum())
    lost = kernel - factorize(form, kernel, None).kernel()
    return float(lost.square().sum()) / total if total else 0.0


def solver_work(form: Form, kernel: Kernel) -> float:
    """The multiply-adds of one step on data, where they matter beside all else."""
    return SOLVERS[type(form)].work(form, kernel)


def _separate_work(form: Separate, kernel: Kernel) -> float:
    """The normal equations of pw-dw, N systems of r * M unknowns; those of dw-pw are small."""
    out_channels, in_channels = kernel[:2]
    return 0.0 if form.order == "dw-pw" else out_channels * float(form.rank * in_channels) ** 3


SOLVERS: dict[type[Form], Solver] = {
    Separate: Solver(
        lambda form, weight, bias: factorize_svd(weight, bias, form.order, form.rank),
        error=lambda form, weight: svd_error(weight, form.order, form.rank),
        work=_separate_work,
    ),
    Bottleneck: Solver(
        lambda form, weight, bias: factorize_bottleneck(weight, bias, form.channels),
        lambda form, weight, fit, held, iterations: solve_bottleneck(
            form.channels, weight, fit, held, STEPS_EACH * iterations
        ),
    ),
    LowRank: Solver(
        lambda form, weight, bias: factorize_low_rank(weight, bias, form.channels),
        lambda form, weight, fit, held, iterations: solve_low_rank(
            form.channels, weight, fit, held
        ),
    ),
    Spatial: Solver(
        lambda form, weight, bias: factorize_spatial(weight, bias, form.channels),
        lambda form, weight, fit, held, iterations: solve_spatial(
            form.channels, weight, fit, held, STEPS_EACH * iterations
        ),
    ),
}
