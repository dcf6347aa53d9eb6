"""A teacher whose BatchNorm fits its images, and its student."""

from __future__ import annotations

import torch
from nets import Plain, images, seeded
from torch import Tensor, fx, nn

import sepify


def teacher(channels: int = 8) -> nn.Module:
    """`Plain` with random weights, BatchNorm statistics of its images, and varied answers."""
    network = seeded(Plain(channels))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(pictures())
        network.eval()
        scores = network(pictures())
        network.head.weight /= scores.std() / 3
        network.head.bias.copy_(-3 * scores.mean(0) / scores.std())
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def pictures(count: int = 192) -> Tensor:
    """Images (count, 3, 12, 12)."""
    return images(count)


def student(network: nn.Module, rank: int = 1, **options) -> fx.GraphModule:
    """What convert makes of `network` on a few of its images."""
    return sepify.convert(network, rank=rank, calibration=pictures()[:64], refine=False, **options)


def weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the state_dict."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state_dicts are equal, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
