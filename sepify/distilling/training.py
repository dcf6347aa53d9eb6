"""Training settings: optimiser, learning rate, moving average of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sepify.distilling.augment import Augment
from sepify.errors import UsageError

Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True)
class Training:
    """The settings of the loop.

    batch            images at a time, over all processes; a loader of your own has its own
    accumulate       batches for each step of the optimiser
    optimizer        "adamw", or "sgd" with Nesterov momentum 0.9
    rate             the peak, 2e-3 for adamw and 0.05 for sgd if None: the rate rises to it in a
                     straight line over the share `warmup` of the steps, then falls to 0 as a half
                     cosine
    weight_decay     of weights; biases and BatchNorm have none
    clip             largest norm of the gradient; None leaves it as it is
    ema              decay a step of the running average of the weights, which is what is judged and
                     returned; None: the weights themselves
    batchnorm        "train": statistics of each batch, and running averages of them; "frozen":
                     those that are there, as in evaluation
    unchanged        "train": every weight learns; "frozen": what no rewritten layer comes before
                     (the stem, say) stays as it is, for it answers as the original does; saves its
                     part of each step, which is large where the images are
    patience         stop after so many epochs without a better judgement; None: never
    mixed_precision  "no", "bf16" or "fp16"
    save_every       seconds between checkpoints, besides those at each epoch's end
    seed             of order, augmentation and dropout
    augment          augment(images, generator) -> images; see `sepify.distilling.shift_and_mirror`
    """

    batch: int = 128
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    rate: float | None = None
    weight_decay: float = 1e-4
    warmup: float = 0.05
    clip: float | None = 5.0
    ema: float | None = 0.998
    batchnorm: Literal["train", "frozen"] = "train"
    unchanged: Literal["train", "frozen"] = "train"
    patience: int | None = None
    mixed_precision: Precision = "no"
    save_every: float = 300.0
    seed: int = 0
    augment: Augment | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", ("adamw", "sgd")),
            ("batchnorm", ("train", "frozen")),
            ("unchanged", ("train", "frozen")),
            ("mixed_precision", ("no", "bf16", "fp16")),
        ):
            if getattr(self, name) not in known:
                choice = ", ".join(known)
                raise UsageError(f"{name} {getattr(self, name)!r} is not known; choose of {choice}")
        for name in ("batch", "accumulate", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}={value} is below 1")
        if self.rate is not None and not self.rate > 0:
            raise UsageError(f"rate={self.rate} is not above 0")
        if not 0 <= self.warmup < 1:
            raise UsageError(f"warmup={self.warmup} is not a share of the steps, from 0 to below 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UsageError(f"ema={self.ema} is not between 0 and 1")


def make_optimizer(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimiser of the trainable parameters; those of one dimension do not decay. On a CPU it
    is torch's fused one: the plain one takes a hundred small steps where this takes one."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise UsageError("the student has no parameter that requires a gradient")
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = True if all(p.device.type == "cpu" for p in parameters) else None
    if training.optimizer == "sgd":
        rate = training.rate or 0.05
        return torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.AdamW(groups, training.rate or 2e-3, fused=fused)


def rate_at(step: int, steps: int, warmup: float) -> float:
    """The rate of step `step` (from 0) as a share of its peak: up in a straight line, then down as
    a half cosine (Loshchilov and Hutter 2017, equation 5, one cycle)."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + cos(pi * (step - rising) / max(1, steps - rising)))


def make_average(network: nn.Module, decay: float) -> AveragedModel:
    """A running average of all weights and buffers. Early on the decay is smaller, (1 + n)/(10 + n)
    after n steps, so that the average does not hang on to where it began."""

    def average(kept: Sequence[Tensor], new: Sequence[Tensor], steps: Tensor | int) -> None:
        count = int(steps)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(kept, new, steps)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def freeze_batchnorm(network: nn.Module) -> None:
    """Put every BatchNorm into evaluation mode: its statistics stay as they are."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
