"""Alternating least squares on the maps themselves, for layers whose covariance would not fit.

The output of a chain of convolutions is linear in each part while the others are fixed. So each
step is a linear least-squares problem  min |y - A v|^2 + damping |v|^2  over centred outputs, whose
operator A is the convolution as it runs and whose A' is what automatic differentiation gives; they
go to conjugate gradients on the normal equations, preconditioned by an estimate of their diagonal.
No (Mk, Mk) matrix is formed: memory is a few times that of the maps, whatever the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sepify.factorize.factors import Factors, as_type, part_inputs, run_factors, with_weights
from sepify.factorize.least_squares import ENOUGH
from sepify.factorize.linear import Operator, conjugate_gradients
from sepify.factorize.solution import DAMPING, Solution
from sepify.factorize.statistics import working_type

TOLERANCE = 1e-2  # a step is redone after the other one
MOST_STEPS = 20


@dataclass(frozen=True)
class Maps:
    """Inputs (B, M, H, W) that a convolution meets, and the outputs (B, N, H', W') wanted there."""

    inputs: Tensor
    outputs: Tensor

    @property
    def finite(self) -> bool:
        """Whether there is neither NaN nor infinity in them."""
        return all(bool(values.isfinite().all()) for values in (self.inputs, self.outputs))

    def working_type(self) -> torch.dtype:
        """What products of the maps are summed in: float32, or float64."""
        return torch.promote_types(working_type(self.inputs), working_type(self.outputs))

    def error(self, factors: Factors, conv: nn.Conv2d) -> float:
        """Relative squared error of the outputs for the best bias; 0 if there is nothing there."""
        power = float(_centred(self.outputs).square().sum())
        wrong = _centred(self.outputs - _run(factors, conv, self.inputs))
        return float(wrong.square().sum()) / power if power > 0 else 0.0

    def bias(self, factors: Factors, conv: nn.Conv2d) -> Tensor:
        """The best bias (N,)."""
        return (self.outputs - _run(factors, conv, self.inputs)).mean((0, 2, 3))


def solve_on_maps(
    start: Factors, conv: nn.Conv2d, fit: Maps, heldout: Maps, iterations: int = 10
) -> Solution:
    """Improve `start`, the factors of `conv`, on the maps `fit`, for `iterations` at most. Never
    worse than `start` on `heldout`. In the type that products of the maps are summed in."""
    wide = fit.working_type()
    fit, heldout = _as(fit, wide), _as(heldout, wide)
    factors = initial = as_type(start, wide)
    error = fit.error(initial, conv)
    for _ in range(iterations):
        factors = _balanced(factors)
        for role in _steps(factors):
            factors = _improved(factors, role, conv, fit)
        before, error = error, fit.error(factors, conv)
        if before - error < ENOUGH * before:
            break
    factors = min((factors, initial), key=lambda each: heldout.error(each, conv))
    return judge_on_maps(as_type(factors, start.dtype), conv, fit, heldout)


def judge_on_maps(factors: Factors, conv: nn.Conv2d, fit: Maps, heldout: Maps) -> Solution:
    """`factors` with the best bias for them, and their errors."""
    wide = fit.working_type()
    fit, heldout = _as(fit, wide), _as(heldout, wide)
    exact = as_type(factors, wide)
    found = with_weights(factors, {}, bias=fit.bias(exact, conv).to(factors.dtype))
    return Solution(found, fit.error(exact, conv), heldout.error(exact, conv), DAMPING)


def _steps(factors: Factors) -> list[str]:
    """The parts in the order in which they are improved: those without a window, from the last to
    the first, then those with one."""
    parts = factors.parts[::-1]
    return [part.role for part in sorted(parts, key=lambda part: bool(part.axes))]


def _improved(factors: Factors, role: str, conv: nn.Conv2d, fit: Maps) -> Factors:
    """`factors` with the best weights for one part while the others stay.

    The diagonal: a weight is worth the energy of the map that it reads, times how much the parts
    after it amplify what it is added to.
    """
    number = list(factors.weights).index(role)
    part = factors.parts[number]
    energy = part_inputs(factors, conv, fit.inputs)[number].square().mean((0, 2, 3))
    outs = part.weight.shape[0]
    read = energy.reshape(part.groups, 1, -1).expand(-1, outs // part.groups, -1)
    gains = _gains(factors, number).reshape(-1, 1)
    diagonal = (read.reshape(outs, -1) * gains)[:, :, None, None]

    def run(weight: Tensor) -> Tensor:
        return _run(with_weights(factors, {role: weight}), conv, fit.inputs)

    found = _least_squares(run, fit.outputs, part.weight, diagonal)
    return with_weights(factors, {role: found})


def _gains(factors: Factors, number: int) -> Tensor:
    """How much the energy of each output channel of a part counts at the end of the chain."""
    gains = torch.ones(factors.parts[-1].weight.shape[0]).to(factors.parts[-1].weight)
    for part in factors.parts[:number:-1]:
        weight = part.weight.square().sum((2, 3)) * gains[:, None]  # (O, I / groups)
        gains = weight.reshape(part.groups, -1, weight.shape[1]).sum(1).flatten()
    return gains


def _least_squares(
    linear: Callable[[Tensor], Tensor], wanted: Tensor, start: Tensor, diagonal: Tensor
) -> Tensor:
    """min over v of the mean of |wanted - linear(v)|^2 over images and positions, damped."""
    positions = wanted.numel() // wanted.shape[1]
    diagonal = diagonal.expand_as(start)
    damping = DAMPING * float(diagonal.mean())
    if damping <= 0:  # nothing varies: no weights explain anything
        return start

    def adjoint(outputs: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
        with torch.enable_grad():
            variable = at.detach().requires_grad_()
            given = linear(variable)
            (pulled,) = torch.autograd.grad(given, variable, _centred(outputs(given.detach())))
        return pulled / positions

    def apply(at: Tensor) -> Tensor:
        return adjoint(lambda given: given, at) + damping * at

    operator = Operator(apply, lambda residual: residual / (diagonal + damping))
    target = adjoint(lambda _: wanted, start)
    return conjugate_gradients(operator, target, start, TOLERANCE, MOST_STEPS)


def _run(factors: Factors, conv: nn.Conv2d, inputs: Tensor) -> Tensor:
    return run_factors(with_weights(factors, {}, bias=None), conv, inputs)


def _centred(maps: Tensor) -> Tensor:
    return maps - maps.mean((0, 2, 3), keepdim=True)


def _balanced(factors: Factors) -> Factors:
    """Windowed parts scaled to norm 1 a channel that they read, and the part beside them so that
    the product stays."""
    weights = dict(factors.weights)
    for number, part in enumerate(factors.parts):
        if not part.axes or part.groups == 1:
            continue
        if part.weight.shape[1] == 1 and number + 1 < len(factors.parts):
            norms = part.weight.flatten(1).norm(dim=1).clamp_min(1e-30)  # (O,)
            after = factors.parts[number + 1].role
            weights[part.role] = weights[part.role] / norms[:, None, None, None]
            weights[after] = weights[after] * norms[:, None, None]
        else:
            norms = part.weight.flatten(2).norm(dim=2).clamp_min(1e-30)  # (O, I / groups)
            ahead = factors.parts[number - 1].role
            weights[part.role] = weights[part.role] / norms[:, :, None, None]
            weights[ahead] = weights[ahead] * norms.reshape(-1, 1, 1, 1)
    return with_weights(factors, weights)


def _as(maps: Maps, dtype: torch.dtype) -> Maps:
    return Maps(maps.inputs.to(dtype), maps.outputs.to(dtype))
