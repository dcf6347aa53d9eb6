"""Improve the factors of a block together, against what the original block puts out.

Least squares makes each convolution's own output right; what counts is what leaves the block,
after the activation and the addition. From the solved start, a few hundred gradient steps on the
factors alone (no labels, nothing else is trained) bring the block's output closer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from sepify.calibration.blocks import Block
from sepify.calibration.lockstep import run_block
from sepify.factorize.factors import Factors

LossOf = Callable[[Tensor, dict[str, Factors]], Tensor]

HELDOUT = 8  # as in the solver: one image in eight judges, the others teach


@dataclass(frozen=True)
class Refinement:
    """Adam (Kingma and Ba 2015) with a cosine rate on mini-batches of the calibration images."""

    steps: int = 250
    batch: int = 128
    rate: float = 2e-3  # relative to the root mean square of each factor
    seed: int = 0


@dataclass(frozen=True)
class Refined:
    """Refined factors, and the relative squared error of the block's output on held-out images:
    E|given - wanted|^2 over the variance of the wanted output."""

    factors: dict[str, Factors]
    heldout_error: float


def refine_block(
    original: fx.GraphModule,
    block: Block,
    entered: Sequence[Tensor],
    wanted: Sequence[Tensor],
    factors: dict[str, Factors],
    options: Refinement,
) -> Refined:
    """Factors that bring the exit of `block` nearer to `wanted`, or those given if the held-out
    images say that it did not. `entered` and `wanted` hold a tensor (B, ...) a batch."""
    interpreter = fx.Interpreter(original)
    inputs, outputs = torch.cat(list(entered)), torch.cat(list(wanted))
    judged = torch.arange(len(inputs)) % HELDOUT == HELDOUT - 1
    power = float(outputs[~judged].var(0).sum().clamp_min(1e-12))  # of an image

    def loss_of(chosen: Tensor, trial: dict[str, Factors]) -> Tensor:
        given = run_block(interpreter, block, inputs[chosen], trial)
        return (given - outputs[chosen]).square().sum() / (len(chosen) * power)

    def heldout_error(trial: dict[str, Factors]) -> float:
        parts = judged.nonzero().flatten().split(options.batch)
        total = sum(float(loss_of(part, trial)) * len(part) for part in parts)
        return total / int(judged.sum())

    with torch.enable_grad():
        refined = _descend(factors, (~judged).nonzero().flatten(), loss_of, options)
    before, after = heldout_error(factors), heldout_error(refined)
    return Refined(refined, after) if after < before else Refined(factors, before)


def _descend(
    factors: dict[str, Factors],
    taught: Tensor,
    loss_of: LossOf,
    options: Refinement,
) -> dict[str, Factors]:
    """Run the optimiser on scaled copies, so that one rate suits tensors of every size."""
    scaled = _Scaled(factors)
    optimiser = torch.optim.Adam(scaled.parameters, options.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
    generator = torch.Generator().manual_seed(options.seed)
    for _ in range(options.steps):
        order = torch.randperm(len(taught), generator=generator)
        loss = loss_of(taught[order[: options.batch]], scaled.factors())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return {name: _detached(value) for name, value in scaled.factors().items()}


class _Scaled:
    """Trainable tensors of root mean square one, and the factors that they stand for."""

    def __init__(self, factors: dict[str, Factors]) -> None:
        self.given = factors
        self.scales: list[Tensor] = []
        self.parameters: list[Tensor] = []
        for value in factors.values():
            for tensor in (value.depthwise, value.pointwise, value.bias):
                assert tensor is not None, "solved factors have a bias"
                scale = tensor.square().mean().sqrt().clamp_min(1e-6)
                self.scales.append(scale)
                self.parameters.append((tensor / scale).clone().requires_grad_())

    def factors(self) -> dict[str, Factors]:
        tensors = iter([p * s for p, s in zip(self.parameters, self.scales, strict=True)])
        return {
            name: replace(
                value, depthwise=next(tensors), pointwise=next(tensors), bias=next(tensors)
            )
            for name, value in self.given.items()
        }


def _detached(value: Factors) -> Factors:
    assert value.bias is not None
    return replace(
        value,
        depthwise=value.depthwise.detach(),
        pointwise=value.pointwise.detach(),
        bias=value.bias.detach(),
    )
