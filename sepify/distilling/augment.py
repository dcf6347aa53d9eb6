"""Augmentation: random changes of the training images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sepify.errors import UsageError

Augment = Callable[[Any, torch.Generator], Any]
"""augment(images, generator) -> images, on the device that they are learnt on; the generator is the
CPU's. A network with several inputs gives and takes a tuple. Draw from the generator alone: then
resuming is exact."""


def shift_and_mirror(pixels: int, *, mirror: bool = True) -> Augment:
    """Shift each image by up to `pixels` each way, zeros moving in, and mirror half of them: for
    photographs; not for writing. (B, C, H, W) -> the same."""

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        count, _, height, width = images.shape
        padded = F.pad(images, (pixels,) * 4)
        down, right = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=generator)
        rows, columns = down + torch.arange(height), right + torch.arange(width)
        if mirror:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        numbers = torch.arange(count, device=images.device)[:, None, None]
        rows, columns = rows.to(images.device), columns.to(images.device)
        # indexing around the channels puts them last
        return padded[numbers, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    return augment


def read_augment(text: str) -> Augment:
    """Parse the option of the shell: "mirror", "shift=4" (pixels), or both with a comma."""
    pixels, mirror = 0, False
    for word in text.split(","):
        name, _, value = word.strip().partition("=")
        if name == "mirror" and not value:
            mirror = True
        elif name == "shift" and value.isdecimal():
            pixels = int(value)
        else:
            raise UsageError(f"augmentation {word.strip()!r} is not known: mirror, shift=PIXELS")
    return shift_and_mirror(pixels, mirror=mirror)
