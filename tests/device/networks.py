"""The networks that are run on emulated boards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import sepify
from sepify.demo.data import MODEL_FILE
from sepify.formats.torchscript_read import load_torchscript


class Residual(nn.Module):
    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Conv2d(channels, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(y)) + self.shortcut(x)).relu()


def resnet18() -> nn.Module:
    """He et al. 2016, with a hundred classes."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for outputs in (64, 128, 256, 512):
        layers += [Residual(channels, outputs, 1 + (outputs > 64)), Residual(outputs, outputs, 1)]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100))


def mobilenet() -> tuple[nn.Module, Tensor]:
    """MobileNet v1 at width 0.5, 96x96 (Howard et al. 2017)."""

    def layer(channels: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list:
        conv = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU6()]

    layers, channels = layer(3, 16, 3, 2), 16
    for outputs in (32, 64, 64, 128, 128, *(256,) * 6, 512, 512):
        stride = 2 if outputs > channels > 16 else 1
        layers += layer(channels, channels, 3, stride, channels) + layer(channels, outputs, 1, 1)
        channels = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 100)]
    return nn.Sequential(*layers, *head), torch.randn(1, 3, 96, 96)


def separable_resnet18() -> tuple[nn.Module, Tensor]:
    return sepify.convert(
        resnet18().eval(), keep=("0",), solver=sepify.Solver(method="svd")
    ), torch.randn(1, 3, 64, 64)


def demo() -> tuple[nn.Module, Tensor]:
    """The network that comes with the package, converted at rank 1, its stem kept."""
    x = torch.rand(1, 1, 28, 28) * 255
    model = load_torchscript(MODEL_FILE).module
    return sepify.convert(
        model, keep=("stem",), example_inputs=x, solver=sepify.Solver(method="svd")
    ), x


def bottlenecks() -> tuple[nn.Module, Tensor]:
    """Pointwise, depthwise and pointwise in a row, of channels that fill no whole vector."""
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 3, 1, 1), nn.ReLU()]
    for middle, outputs, stride in ((13, 24, 1), (37, 40, 2)):
        layers += [
            nn.Conv2d(24, middle, 1, bias=False),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.Conv2d(middle, outputs, 1),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.randn(1, 3, 17, 19)


NETWORKS = {
    "demo": demo,
    "sepResNet-18": separable_resnet18,
    "MobileNet": mobilenet,
    "bottlenecks": bottlenecks,
}
