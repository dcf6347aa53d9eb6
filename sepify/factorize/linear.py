"""Positive semi-definite linear systems: solved directly, damped, or by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sepify.errors import ConversionError

MOST_RAISES = 20  # of the damping, tenfold each


def solve_damped(system: Tensor, target: Tensor, damping: float) -> Tensor:
    """(system + damping * mean diagonal) x = target, (..., n, n) and (..., n, columns).

    Where Cholesky finds it not positive (constant channels, dead ReLUs, rounding), the damping is
    raised tenfold until it is: directions that carry nothing get no weight. Raises ConversionError
    where the system holds NaN or infinity, or nothing helps.
    """
    scale = system.diagonal(dim1=-2, dim2=-1).mean(-1)
    nothing = scale <= 0  # varies: no weights explain anything
    added = (damping * scale).masked_fill(nothing, 1.0)
    for _ in range(MOST_RAISES):
        damped = system.clone()
        damped.diagonal(dim1=-2, dim2=-1).add_(added[..., None])
        lower, info = torch.linalg.cholesky_ex(damped)
        if not info.any():
            solved = torch.cholesky_solve(target, lower)
            return solved.masked_fill(nothing[..., None, None], 0.0)
        added = torch.where(info > 0, 10 * added, added)
    raise ConversionError("least squares met NaN or infinity, or numbers too far apart")


@dataclass(frozen=True)
class Operator:
    """x -> A x for a symmetric positive definite A, and x -> B x with B near the inverse of A."""

    apply: Callable[[Tensor], Tensor]
    precondition: Callable[[Tensor], Tensor]


def block_jacobi(blocks: Tensor) -> Callable[[Tensor], Tensor]:
    """The inverse of the positive definite (n, n) blocks on a diagonal, (b, n, n), for (b, ...).
    Raises ConversionError where they are not positive definite."""
    factor, info = torch.linalg.cholesky_ex(blocks)
    if info.any():
        raise ConversionError("least squares met NaN or infinity, or numbers too far apart")

    def precondition(residual: Tensor) -> Tensor:
        flat = residual.reshape(len(factor), -1, 1)
        return torch.cholesky_solve(flat, factor).reshape(residual.shape)

    return precondition


def conjugate_gradients(
    operator: Operator, target: Tensor, start: Tensor, tolerance: float, most_steps: int
) -> Tensor:
    """A x = target by preconditioned conjugate gradients (Hestenes and Stiefel 1952; Saad 2003,
    algorithm 9.1) from `start`, until the residual is `tolerance` of the target, or `most_steps`.
    Each step brings x closer in the norm of A, so that stopping early is safe.
    """
    x = start
    residual = target - operator.apply(x)
    enough = tolerance * float(target.norm())
    step = operator.precondition(residual)
    square = float((residual * step).sum())
    for _ in range(most_steps):
        if float(residual.norm()) <= enough:
            break
        image = operator.apply(step)
        curvature = float((step * image).sum())
        if not (curvature > 0 and square > 0):  # nothing is left that rounding would not drown
            break
        length = square / curvature
        x = x + length * step
        residual = residual - length * image
        toward = operator.precondition(residual)
        square, before = float((residual * toward).sum()), square
        step = toward + (square / before) * step
    return x
