"""The networks that the benchmarks rewrite, as plain definitions: weights come from elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WideVgg(nn.Module):
    """(B, 1, 28, 28) images, 0 to 255 as float -> (B, 10): a plain chain of wide 3x3 convolutions.

    After Simonyan and Zisserman 2015, with BatchNorm; the normalisation is inside.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # mean and standard deviation of Fashion-MNIST's 60,000 training images
        self.register_buffer("mean", torch.tensor(72.94))
        self.register_buffer("std", torch.tensor(90.02))
        self.stem = _convolution(1, 64, stride=2)
        self.features = nn.Sequential(
            _convolution(64, 64),
            nn.MaxPool2d(2),
            _convolution(64, 128),
            _convolution(128, 256),
            nn.MaxPool2d(2),
            _convolution(256, 256),
            _convolution(256, 256),
        )
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 28, 28) -> (B, 10)."""
        x = self.features(self.stem((x - self.mean) / self.std))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class CifarBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut drops every other pixel and
    pads the channels with zeros (option A of He et al. 2016, section 4.2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.added = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.added:
            half = self.added // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return F.relu(y + x)


class CifarResNet20(nn.Module):
    """(B, 3, 32, 32) images, normalised -> (B, 10) (He et al. 2016, section 4.2, n = 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _cifar_stage(16, 16, 1)
        self.layer2 = _cifar_stage(16, 32, 2)
        self.layer3 = _cifar_stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 32, 32) -> (B, 10)."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _cifar_stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        CifarBlock(in_channels, out_channels, stride),
        CifarBlock(out_channels, out_channels, 1),
        CifarBlock(out_channels, out_channels, 1),
    )


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; the stride is on the 3x3 (the ResNet "v1.5" everyone uses)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, 4 * width, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet50(nn.Module):
    """(B, 3, 224, 224) -> (B, 1000) (He et al. 2016, table 1): sixteen 3x3 convolutions and a 7x7.

    Random weights unless loaded; `depths` shortens it.
    """

    def __init__(self, depths: tuple[int, int, int, int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, channels = [], 64
        for index, depth in enumerate(depths):
            width = 64 * 2**index
            for block in range(depth):
                stride = 2 if block == 0 and index > 0 else 1
                stages.append(Bottleneck(channels, width, stride))
                channels = 4 * width
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(channels, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1000)."""
        x = self.blocks(self.pool(F.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class PlainChain(nn.Module):
    """`layers` equal 3x3 convolutions with BatchNorm and ReLU, for timing against their number."""

    def __init__(self, layers: int, channels: int = 32) -> None:
        super().__init__()
        self.stem = _convolution(3, channels, stride=2)
        self.features = nn.Sequential(*(_convolution(channels, channels) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, channels)."""
        pooled: Tensor = self.features(self.stem(x)).mean((2, 3))
        return pooled


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """(B, 3, 224, 224) -> (B, 1000) (He et al. 2016, table 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks, channels = [], 64
        for width in (64, 128, 256, 512):
            blocks += [BasicBlock(channels, width, 1 + (width > 64)), BasicBlock(width, width, 1)]
            channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1000)."""
        x = self.blocks(self.pool(F.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class MobileNetV1(nn.Module):
    """(B, 3, 224, 224) -> (B, 1000) (Howard et al. 2017, table 1)."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = _layer(3, 32, 3, 2), 32
        for outputs in (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024):
            stride = 2 if outputs > channels > 32 else 1  # every widening but the first
            layers += _layer(channels, channels, 3, stride, channels)
            layers += _layer(channels, outputs, 1, 1)
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(1024, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1000)."""
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


def _layer(
    in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU()]


class Vgg16Bn(nn.Module):
    """(B, 3, 224, 224) -> (B, 1000) (Simonyan and Zisserman 2015, configuration D, BatchNorm)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for outputs, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers.append(_convolution(channels, outputs))
                channels = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(512 * 49, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, 1000),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 224, 224) -> (B, 1000)."""
        logits: Tensor = self.head(self.features(x).flatten(1))
        return logits
