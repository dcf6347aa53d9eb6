"""Alternating least squares on the maps themselves, for layers whose covariance would not fit.

The output of a separable convolution is linear in either factor while the other is fixed. So each
step is a linear least-squares problem  min |y - A v|^2 + damping |v|^2  over centred outputs, whose
operator A is the convolution as it runs and whose A' is what automatic differentiation gives; they
go to conjugate gradients on the normal equations, preconditioned by an estimate of their diagonal.
No (Mk, Mk) matrix is formed: memory is a few times that of the maps, whatever the channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sepify.factorize.factors import Factors, run_factors
from sepify.factorize.least_squares import DAMPING, ENOUGH, Solution
from sepify.factorize.linear import Operator, conjugate_gradients
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
    initial = _with(start, start.depthwise.to(wide), start.pointwise.to(wide))
    factors, error = initial, fit.error(initial, conv)
    for _ in range(iterations):
        factors = _improve_pointwise(_balanced(factors), conv, fit)
        factors = _improve_depthwise(factors, conv, fit)
        before, error = error, fit.error(factors, conv)
        if before - error < ENOUGH * before:
            break
    factors = min((factors, initial), key=lambda each: heldout.error(each, conv))
    dtype = start.depthwise.dtype
    found = _with(factors, factors.depthwise.to(dtype), factors.pointwise.to(dtype))
    return judge_on_maps(found, conv, fit, heldout)


def judge_on_maps(factors: Factors, conv: nn.Conv2d, fit: Maps, heldout: Maps) -> Solution:
    """`factors` with the best bias for them, and their errors."""
    dtype = factors.depthwise.dtype
    wide = fit.working_type()
    fit, heldout = _as(fit, wide), _as(heldout, wide)
    exact = _with(factors, factors.depthwise.to(wide), factors.pointwise.to(wide))
    found = replace(factors, bias=fit.bias(exact, conv).to(dtype))
    return Solution(found, fit.error(exact, conv), heldout.error(exact, conv), DAMPING)


def _improve_depthwise(factors: Factors, conv: nn.Conv2d, fit: Maps) -> Factors:
    """The diagonal: a filter's taps are worth the energy of the map that it reads, times, in dw-pw,
    that of the weights which spread it."""
    if factors.order == "dw-pw":
        energy = fit.inputs.square().mean((0, 2, 3)).repeat_interleave(factors.rank)
        energy = energy * factors.pointwise.square().sum((0, 2, 3))
    else:
        energy = _pointwise(factors, fit.inputs).square().mean((0, 2, 3))
    diagonal = energy.reshape(factors.depthwise.shape[:2])[:, :, None, None]
    return _with(
        factors,
        depthwise=_least_squares(
            lambda depthwise: _run(_with(factors, depthwise=depthwise), conv, fit.inputs),
            fit.outputs,
            factors.depthwise,
            diagonal,
        ),
    )


def _improve_pointwise(factors: Factors, conv: nn.Conv2d, fit: Maps) -> Factors:
    if factors.order == "dw-pw":
        eye = torch.eye(len(factors.depthwise)).to(fit.inputs)[:, :, None, None]
        filtered = run_factors(_with(factors, pointwise=eye), conv, fit.inputs)
        diagonal = filtered.square().mean((0, 2, 3)).reshape(1, -1, 1, 1)
    else:
        energy = fit.inputs.square().mean((0, 2, 3)).reshape(1, -1, 1, 1)
        diagonal = factors.depthwise.square().sum((2, 3)).reshape(-1, 1, 1, 1) * energy
    return _with(
        factors,
        pointwise=_least_squares(
            lambda pointwise: _run(_with(factors, pointwise=pointwise), conv, fit.inputs),
            fit.outputs,
            factors.pointwise,
            diagonal,
        ),
    )


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
    return run_factors(replace(factors, bias=None), conv, inputs)


def _pointwise(factors: Factors, inputs: Tensor) -> Tensor:
    return nn.functional.conv2d(inputs, factors.pointwise)


def _centred(maps: Tensor) -> Tensor:
    return maps - maps.mean((0, 2, 3), keepdim=True)


def _balanced(factors: Factors) -> Factors:
    """Filters scaled to norm 1, and the pointwise weights so that the product stays."""
    norms = factors.depthwise.flatten(2).norm(dim=2).clamp_min(1e-30)  # (M*r, 1) or (N, r)
    scales = norms.reshape(1, -1, 1, 1) if factors.order == "dw-pw" else norms.reshape(-1, 1, 1, 1)
    return _with(factors, factors.depthwise / norms[:, :, None, None], factors.pointwise * scales)


def _with(
    factors: Factors, depthwise: Tensor | None = None, pointwise: Tensor | None = None
) -> Factors:
    return replace(
        factors,
        depthwise=factors.depthwise if depthwise is None else depthwise,
        pointwise=factors.pointwise if pointwise is None else pointwise,
        bias=None,
    )


def _as(maps: Maps, dtype: torch.dtype) -> Maps:
    return Maps(maps.inputs.to(dtype), maps.outputs.to(dtype))
