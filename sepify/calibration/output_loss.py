"""How far a network's outputs are from the original's: the one number that planning minimises.

Classifiers, whose only output is one row of class scores (B, C) an image: the Kullback-Leibler
divergence of the softmax at temperature T, times T^2 (Hinton, Vinyals and Dean 2015), in nats. At
T = 1 the few images that change their class are nearly all of it, and some hundred images cannot
tell plans apart; softened, every image counts (benchmarks/README.md). Any other outputs: the
squared error relative to the variance of the original's output, averaged over the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from sepify.errors import InputError

Kind = Literal["kl", "relative"]
Outputs = tuple[Tensor, ...]  # of one batch, each (B, ...)

TEMPERATURE = 4.0


@dataclass(frozen=True)
class OutputLoss:
    """`kind` "kl" in nats, or "relative" with the variance of each output, summed over elements."""

    kind: Kind
    powers: tuple[float, ...] = ()

    def per_image(self, wanted: Outputs, given: Outputs) -> Tensor:
        """The loss of each image, (B,), zero where `given` is `wanted`."""
        if self.kind == "kl":
            right, tried = (F.log_softmax(y[0] / TEMPERATURE, 1) for y in (wanted, given))
            return TEMPERATURE**2 * (right.exp() * (right - tried)).sum(1).clamp_min(0)
        parts = [
            (y - z).square().flatten(1).sum(1) / power
            for y, z, power in zip(wanted, given, self.powers, strict=True)
        ]
        return torch.stack(parts).mean(0)

    def cotangents(self, wanted: Outputs, generator: torch.Generator) -> Outputs:
        """Random v with E[v v'] = H, the Hessian of the loss at `wanted`: for a small change d of
        the outputs the loss is E[(v . d)^2] / 2, so that one backward pass from v tells how much
        any change anywhere in the network costs (Hutchinson 1989; for the softmax
        H = diag(p) - p p' = A A' with A = diag(sqrt p) - p sqrt(p)', v = A e for random signs e,
        at every temperature).
        """
        signs = [_signs(y, generator) for y in wanted]
        if self.kind == "kl":
            p = F.softmax(wanted[0] / TEMPERATURE, 1)
            rooted = p.sqrt() * signs[0]
            return (rooted - p * rooted.sum(1, keepdim=True),)
        return tuple(
            sign * (2 / (power * len(wanted))) ** 0.5
            for sign, power in zip(signs, self.powers, strict=True)
        )


def choose_loss(outputs: Sequence[Outputs]) -> OutputLoss:
    """The loss that suits the original's `outputs`, a tuple a batch. Raises InputError for outputs
    that are not one row an image, or not finite."""
    _check(outputs)
    first = outputs[0]
    if len(first) == 1 and first[0].dim() == 2 and first[0].shape[1] > 1:
        return OutputLoss("kl")
    return OutputLoss("relative", tuple(_power(parts) for parts in zip(*outputs, strict=True)))


def output_tensors(output: Any) -> Outputs:
    """The floating-point tensors in whatever a network returns."""
    tensors = (leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
    return tuple(_wide(tensor) for tensor in tensors if tensor.is_floating_point())


def _wide(values: Tensor) -> Tensor:
    """float16 and bfloat16 as float32: losses are differences of nearly equal numbers."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _check(outputs: Sequence[Outputs]) -> None:
    if not outputs or not outputs[0]:
        raise InputError("the network returns no floating-point tensor to plan by")
    for batch in outputs:
        if any(y.dim() == 0 or len(y) != len(batch[0]) for y in batch):
            shapes = ", ".join(str(tuple(y.shape)) for y in batch)
            raise InputError(f"planning needs outputs with a row for each image, not {shapes}")
        if not all(bool(torch.isfinite(y).all()) for y in batch):
            raise InputError("the network answers the calibration data with NaN or infinity")


def _power(parts: tuple[Tensor, ...]) -> float:
    """E|y - E[y]|^2 over the images, summed over the elements."""
    images = sum(len(part) for part in parts)
    mean = sum(part.double().sum(0) for part in parts) / images
    total = sum(float((part.double() - mean).square().sum()) for part in parts)
    return max(total / images, 1e-12)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, like.shape, generator=generator, device="cpu")
    return (2 * drawn - 1).to(like)
