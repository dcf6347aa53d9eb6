"""What the student is taught by: soft targets, the teacher's layers, labels; and their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from sepify.errors import UsageError

TaskLoss = Callable[[Any, Any, "Tensor | None"], Tensor]
"""loss(student's output, teacher's output, labels or None) -> a scalar, the mean over the batch."""


@dataclass(frozen=True)
class Losses:
    """The weights of the three parts; 0 switches a part off.

    soft          soft targets: cross-entropy with the teacher's class scores, softened
    temperature   of the soft targets, above 0
    layers        squared error of each rewritten convolution against the original's output there,
                  relative to the variance of that output; the mean over the layers
    layers_until  the share of the training, 0 to 1, over which the weight of `layers` falls to 0
                  in a straight line; what is left teaches by outputs alone
    labels        cross-entropy with labels, where the data has any
    """

    soft: float = 1.0
    temperature: float = 3.0
    layers: float = 1.0
    layers_until: float = 0.5
    labels: float = 0.1

    def __post_init__(self) -> None:
        for name in ("soft", "layers", "labels"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"the weight {name}={getattr(self, name)} is below 0")
        if not self.temperature > 0:
            raise UsageError(f"temperature={self.temperature} is not above 0")
        if not 0 <= self.layers_until <= 1:
            raise UsageError(f"layers_until={self.layers_until} is not a share, 0 to 1")
        if self.soft == self.layers == self.labels == 0:
            raise UsageError("every part of the loss is switched off: nothing would be learnt")
        if self.soft == self.labels == 0 and self.layers_until < 1:
            raise UsageError("with `layers` alone, nothing is left later on: set layers_until=1")

    def layers_at(self, done: float) -> float:
        """The weight of `layers` when the share `done` of the training is over."""
        if done >= self.layers_until:
            return 0.0
        return self.layers * (1 - done / self.layers_until)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float = 3.0) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch, and over the
    positions of a map (Hinton, Vinyals and Dean 2015, section 2). Both (B, classes, ...)."""
    given = F.log_softmax(student.float() / temperature, 1)
    wanted = F.log_softmax(teacher.float() / temperature, 1)
    divergence = F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)
    return temperature**2 * divergence.mean()


def same_outputs(student: Any, teacher: Any, labels: Tensor | None = None) -> Tensor:
    """A `TaskLoss` for outputs of any structure (boxes, images, features): for each tensor, the
    squared error over the mean square of the teacher's; the mean over the tensors."""
    pairs = zip(tree_leaves(student), tree_leaves(teacher), strict=True)
    errors = [
        (given.float() - wanted.float()).square().mean()
        / wanted.float().square().mean().clamp_min(1e-12)
        for given, wanted in pairs
        if isinstance(wanted, Tensor) and wanted.is_floating_point()
    ]
    return torch.stack(errors).mean()


def are_class_scores(output: object) -> bool:
    """Whether an output is one row of class scores for each image, (B, classes)."""
    return (
        isinstance(output, Tensor)
        and output.is_floating_point()
        and output.dim() == 2
        and output.shape[1] > 1
    )
