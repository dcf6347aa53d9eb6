"""Super-resolution by two with sub-pixel convolution, made separable; judged by PSNR.

    python examples/super_resolution.py --rank 3 -o report

Sub-pixel convolution: Shi et al., "Real-Time Single Image and Video Super-Resolution", CVPR 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from training import load_images, options, train

import sepify


class SubPixel(nn.Module):
    """Convolutions on the small picture, then four channels become one of twice the size."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 5, padding=2)
        self.middle = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(3))
        )
        self.last = nn.Conv2d(width, 4, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(self.last(self.middle(self.first(x).relu())))
        return y + nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, the peak being 1."""
    error = (output.clamp(0, 1) - target).square().mean((1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


def main() -> None:
    """Train, convert, compare by PSNR."""
    asked = options(__doc__ or "")
    torch.manual_seed(0)
    images = load_images(asked.images)
    reduced = nn.functional.avg_pool2d(images.train, 2)
    model = SubPixel()
    train(model, nn.functional.mse_loss, reduced, images.train, asked.epochs)
    test = nn.functional.avg_pool2d(images.test, 2)
    small = sepify.convert(
        model,
        rank=asked.rank,
        keep=["first", "last"],  # 1 channel in, 4 out: next to nothing to gain, much to lose
        example_inputs=test[:1],
        calibration=reduced[:512],
    )
    report = sepify.compare(
        model,
        small,
        test[:1],
        data=(test, images.test),
        judging=sepify.Judging(metric=psnr),
        timing=sepify.Timing(target=None, seconds=5),
    )
    report.save(asked.output / "super_resolution.html")
    print(report)


if __name__ == "__main__":
    main()
