"""Small networks that the tests share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sepify.capture import Captured
from sepify.capture.network import Network
from sepify.passes.base import Pass
from sepify.passes.runner import run_passes


class Plain(nn.Module):
    """conv-bn-relu twice, then a head: the smallest network with something to separate."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(2 * channels)
        self.head = nn.Linear(2 * channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    """In-place additions and activations, a shortcut, two users of one value."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        x += y
        return self.act(x)


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """`network` in inference mode with random weights and BatchNorm statistics."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
    return network.eval()


def images(count: int = 4, channels: int = 3, size: int = 12, seed: int = 1) -> Tensor:
    """Random images (count, channels, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, size, size, generator=generator)


def relative_error(given: Tensor, wanted: Tensor) -> float:
    """Largest absolute difference over the largest absolute value wanted."""
    return float((given - wanted).abs().max() / wanted.abs().max())


def rewritten(graph_module: fx.GraphModule, *passes: Pass) -> fx.GraphModule:
    """What `passes` make of `graph_module`, each held to what it declares."""
    return run_passes(graph_module, passes).graph_module


def network_of(
    graph_module: fx.GraphModule,
    batches: Sequence[tuple[Tensor, ...]] | None = None,
    inputs: tuple[Tensor, ...] | None = None,
) -> Network:
    """A graph as if it had been captured."""
    captured = Captured(graph_module, "graph-module", "it is one", ())
    return Network(captured, inputs, None if batches is None else tuple(batches))
