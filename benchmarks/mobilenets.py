"""MobileNet v1 and its twin with standard convolutions, in plain torch (Howard et al. 2017,
table 1), at any width and for any classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

import sepify
from sepify.errors import UntrainedWarning
from sepify.measuring.cost import measure_cost
from sepify.passes.thin_channels import thinned_channels

# (output channels, stride) of each block
V1 = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *[(512, 1)] * 5,
    (1024, 2),
    (1024, 1),
)
# for images of about 30 pixels on a CPU: the same kind of network, stopped earlier
SMALL = ((64, 1), (128, 2), (128, 1), (256, 2))


class MobileNet(nn.Module):
    """(B, in_channels, H, W) images -> (B, classes) scores. `separable` blocks are depthwise,
    BatchNorm, ReLU, pointwise, BatchNorm, ReLU; otherwise each is one 3x3 convolution, BatchNorm,
    ReLU ("Conv MobileNet", section 4.1). The first convolution has 32 channels, times `width`."""

    def __init__(
        self,
        blocks: Sequence[tuple[int, int]] = V1,
        *,
        separable: bool = True,
        width: float = 1.0,
        in_channels: int = 3,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        channels = thinned_channels(32, width)
        self.stem = _standard(in_channels, channels, 2)
        layers = []
        for full, stride in blocks:
            wanted = thinned_channels(full, width)
            make = _separable if separable else _standard
            layers.append(make(channels, wanted, stride))
            channels = wanted
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, classes)."""
        scores: Tensor = self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))
        return scores


def _standard(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def _separable(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    first = (depthwise, nn.BatchNorm2d(in_channels), nn.ReLU())
    return nn.Sequential(*first, pointwise, nn.BatchNorm2d(out_channels), nn.ReLU())


def convert_mobilenet(width: float = 1.0, resolution: int | None = None) -> fx.GraphModule:
    """MobileNet v1 out of Conv MobileNet with random weights, the first convolution kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        return sepify.convert(
            MobileNet(separable=False).eval(),
            architecture=sepify.Architecture(style="mobilenet", width=width, resolution=resolution),
            keep=["stem.*"],
            example_inputs=torch.zeros(1, 3, 224, 224),
            solver=sepify.Solver(method="svd"),
        )


def costs(network: nn.Module, example: Tensor) -> tuple[int, int, int]:
    """Multiply-adds of the convolutions for one image, those of everything, and parameters."""
    cost = measure_cost(network, example)
    convolutions = sum(layer.macs for layer in cost.layers if "convolution" in layer.kind)
    return convolutions, cost.macs, cost.params
