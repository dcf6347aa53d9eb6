"""What the zoo knows of a network before it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """One architecture. `build` constructs it with random weights; `size` is the side of the images
    it is tried on (the smallest that it takes comfortably), `other` that of the second size, or
    None where the architecture fixes the size; `images` is how many images it takes at once, each
    an input of its own."""

    name: str
    source: str  # the package it comes from
    family: str
    build: Callable[[], nn.Module]
    size: int = 64
    other: int | None = 96
    images: int = 1

    def inputs(self, batch: int, size: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """Standard normal images (batch, 3, size, size)."""
        generator = torch.Generator().manual_seed(seed)
        side = self.size if size is None else size
        return tuple(
            torch.randn(batch, 3, side, side, generator=generator) for _ in range(self.images)
        )
