"""A teacher whose BatchNorm fits its images, and its student."""

from __future__ import annotations

import torch
from nets import Plain, images, seeded
from options import grouped
from torch import Tensor, fx, nn
from torch.nn import functional as F

import sepify


class Dropping(Plain):
    """`Plain` with a dropout that draws anew in each step of a training."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(self.drop(x).mean((2, 3)))


def teacher(network: nn.Module | None = None) -> nn.Module:
    """`network`, or `Plain`, with random weights, BatchNorm statistics of its images, and varied
    answers."""
    network = seeded(network or Plain())
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(pictures())
        network.eval()
        scores = network(pictures())
        network.head.weight *= 3 / scores.std(0)[:, None]
        network.head.bias.copy_(3 * (network.head.bias - scores.mean(0)) / scores.std(0))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def pictures(count: int = 192) -> Tensor:
    """Images (count, 3, 12, 12)."""
    return images(count)


def student(network: nn.Module, rank: int = 1, **options) -> fx.GraphModule:
    """What convert makes of `network` on a few of its images."""
    settings = {"refine": False, "holdout": 0, "form": "dw-pw", **options}
    return sepify.convert(network, rank=rank, calibration=pictures()[:64], **grouped(settings))


def weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the state_dict."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state_dicts are equal, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
