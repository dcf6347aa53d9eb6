"""The networks of the latency benchmark: seeded random weights, batch 1, 224x224."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from networks import MobileNetV1, ResNet18, Vgg16Bn
from torch import nn

import sepify


@dataclass(frozen=True)
class Entry:
    """`goal` is the issue's limit for the ratio to the fastest peer, by threads; `original` the
    network that this one came from."""

    make: Callable[[], nn.Module]
    goal: dict[int, float] | None = None
    original: str | None = None


def _separable(rank: int) -> Callable[[], nn.Module]:
    """ResNet-18 with every 3x3 as depthwise + pointwise."""
    return lambda: sepify.convert(
        ResNet18().eval(), rank=rank, keep=["conv1"], solver=sepify.Solver(method="svd")
    )


NETWORKS = {
    "sep-resnet18": Entry(_separable(1), {1: 0.93, 2: 0.92}, "resnet18"),
    "sep-resnet18-rank2": Entry(_separable(2), {1: 0.95, 2: 0.95}, "resnet18"),
    # a mixture such as plans give: the first three blocks kept, the others at rank 2
    "resnet18-mixture": Entry(
        lambda: sepify.convert(
            ResNet18().eval(),
            rank=2,
            keep=["conv1", "blocks.[0-2].*"],
            solver=sepify.Solver(method="svd"),
        ),
        {1: 0.95, 2: 0.95},
        "resnet18",
    ),
    "mobilenet-v1": Entry(MobileNetV1, {1: 0.93, 2: 0.92}),
    # the uniform plan at 0.35 of the multiply-adds: rank 3 everywhere but in the first convolution
    "vgg16bn-macs35": Entry(
        lambda: sepify.convert(
            Vgg16Bn().eval(), rank=3, keep=["features.0.0"], solver=sepify.Solver(method="svd")
        ),
        {1: 1.0, 2: 1.0},
        "vgg16bn",
    ),
    "resnet18": Entry(ResNet18, {1: 1.1, 2: 1.1}),
    "vgg16bn": Entry(Vgg16Bn),
}


def make(name: str) -> nn.Module:
    """The network, in eval mode."""
    torch.manual_seed(0)
    return NETWORKS[name].make().eval()
