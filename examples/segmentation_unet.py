"""A U-Net that finds the garment in a noisy picture, made separable; judged by the Dice score.

python examples/segmentation_unet.py --rank 2 -o report
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from training import load_images, options, train

import sepify


def double(inside: int, out: int) -> nn.Sequential:
    """Two 3x3 convolutions with BatchNorm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inside, out):
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Two levels down and up again, each with its skip."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1, self.down2 = double(1, width), double(width, 2 * width)
        self.bottom = double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.join2 = double(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join1 = double(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        lowest = self.bottom(nn.functional.max_pool2d(second, 2))
        second = self.join2(torch.cat([second, self.up2(lowest)], 1))
        return self.head(self.join1(torch.cat([first, self.up1(second)], 1)))


def dice(logits: Tensor, masks: Tensor) -> Tensor:
    """2 |A and B| / (|A| + |B|) of each image: what `compare` takes as a metric."""
    found = (logits > 0).float()
    shared = (found * masks).sum((1, 2, 3))
    return 2 * shared / (found.sum((1, 2, 3)) + masks.sum((1, 2, 3))).clamp_min(1)


def noisy(images: Tensor) -> Tensor:
    """The picture under noise of half its range, the same every time."""
    return images + 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def main() -> None:
    """Train, convert, compare by the Dice score."""
    asked = options(__doc__ or "")
    torch.manual_seed(0)
    images = load_images(asked.images)
    inputs, masks = noisy(images.train), (images.train > 0.1).float()
    model = UNet()
    loss = nn.functional.binary_cross_entropy_with_logits
    train(model, loss, inputs, masks, asked.epochs)
    test, truth = noisy(images.test), (images.test > 0.1).float()
    small = sepify.convert(
        model, rank=asked.rank, example_inputs=test[:1], calibration=inputs[:256]
    )
    report = sepify.compare(
        model,
        small,
        test[:1],
        data=(test, truth),
        judging=sepify.Judging(metric=dice),
        timing=sepify.Timing(target=None, seconds=5),
    )
    report.save(asked.output / "segmentation.html")
    print(report)


if __name__ == "__main__":
    main()
