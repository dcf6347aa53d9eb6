"""A torchvision-style ResNet: train it, make it separable, see what that cost.

    python examples/resnet.py --rank 2 -o report

With a network of torchvision's own, replace `ResNet()` by it: the names of the layers are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from training import load_images, options, train

import sepify


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or inside != out:
            shortcut = nn.Conv2d(inside, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class ResNet(nn.Module):
    """A stem, three stages, a linear head."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = BasicBlock(widths[0], widths[0], 1)
        self.layer2 = BasicBlock(widths[0], widths[1], 2)
        self.layer3 = BasicBlock(widths[1], widths[2], 2)
        self.fc = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean((2, 3)))


def main() -> None:
    """Train, convert, compare."""
    asked = options(__doc__ or "")
    torch.manual_seed(0)
    images = load_images(asked.images)
    model = ResNet()
    train(model, nn.functional.cross_entropy, images.train, images.train_labels, asked.epochs)
    example = images.test[:1]
    small = sepify.convert(
        model,
        rank=asked.rank,
        keep=["conv1"],  # with one input channel, rank 1 would leave it a single filter
        example_inputs=example,
        calibration=images.train[:1_024],
    )
    judged = (images.test, images.test_labels)
    report = sepify.compare(
        model, small, example, data=judged, timing=sepify.Timing(target=None, seconds=5)
    )
    report.save(asked.output / "resnet.html")
    print(report)


if __name__ == "__main__":
    main()
