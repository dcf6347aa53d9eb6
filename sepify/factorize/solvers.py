"""How the weights of each form are found from the kernel alone: a row for every form that rewrites.

On calibration data, least squares starts from these factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sepify.factorize.factors import Factors
from sepify.factorize.svd import factorize_svd, svd_error
from sepify.plans.form import Form, Kernel
from sepify.plans.forms import Separate


@dataclass(frozen=True)
class Solver:
    """The solver of one form.

    Args:
        factorize: Finds the factors for a form, a weight (N, M, kh, kw) and a bias (N,) or None.
        error: Gives the share of the kernel's squared Frobenius norm that the factors lose, 0 to 1.
        work: Estimates the multiply-adds of one step of least squares for a form and a kernel.
    """

    factorize: Callable[[Any, Tensor, Tensor | None], Factors]
    error: Callable[[Any, Tensor], float]
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


def weight_error(form: Form, weight: Tensor) -> float:
    """The share of the kernel's squared Frobenius norm that `factorize` loses, 0 to 1."""
    return SOLVERS[type(form)].error(form, weight)


def solver_work(form: Form, kernel: Kernel) -> float:
    """The multiply-adds of one step of least squares, where they matter beside all else."""
    return SOLVERS[type(form)].work(form, kernel)


def _separate(form: Separate, weight: Tensor, bias: Tensor | None) -> Factors:
    return factorize_svd(weight, bias, form.order, form.rank)


def _separate_error(form: Separate, weight: Tensor) -> float:
    return svd_error(weight, form.order, form.rank)


def _separate_work(form: Separate, kernel: Kernel) -> float:
    """The normal equations of pw-dw, N systems of r * M unknowns; those of dw-pw are small."""
    out_channels, in_channels = kernel[:2]
    return 0.0 if form.order == "dw-pw" else out_channels * float(form.rank * in_channels) ** 3


SOLVERS: dict[type[Form], Solver] = {
    Separate: Solver(_separate, _separate_error, _separate_work),
}
