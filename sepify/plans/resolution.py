"""Images at the resolution that a plan is for (Howard et al. 2017, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sepify.errors import UsageError
from sepify.plans.plan import Plan

Tensors = tuple[Tensor, ...]


Size = tuple[int, int]


def target_size(resolution: float | Size, inputs: Tensors) -> Size:
    """Height and width in pixels: (height, width) as they are; a share such as 0.714 of those of
    the first image input, rounded to the nearest pixel; or a whole number, the shorter side. Raises
    UsageError."""
    images = next((tensor for tensor in inputs if _is_image(tensor)), None)
    if images is None:
        raise UsageError("a resolution is for images (n, C, H, W); the inputs hold none")
    height, width = (int(extent) for extent in images.shape[2:])
    if isinstance(resolution, tuple):
        return resolution
    if 0 < resolution <= 1 and not (isinstance(resolution, int) and resolution == 1):
        share = float(resolution)
    elif resolution > 1 and float(resolution).is_integer():
        share = resolution / min(height, width)
    else:
        raise UsageError(
            f"resolution {resolution:g} is neither a share in (0, 1] of the {height}x{width} "
            "images nor a number of pixels"
        )
    return max(1, round(height * share)), max(1, round(width * share))


def resize_images(tensors: Sequence[Tensor], size: Size) -> Tensors:
    """The image tensors among `tensors` (n, C, H, W) at `size`, bilinear and without aliasing; the
    others, and those that have it, as they are."""
    return tuple(
        F.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=True)
        if _is_image(tensor) and tuple(tensor.shape[2:]) != size
        else tensor
        for tensor in tensors
    )


def inputs_for(plan: Plan | None, inputs: Tensors) -> Tensors:
    """The original's `inputs` as the network that `plan` makes takes them."""
    if plan is None or plan.resolution is None:
        return inputs
    return resize_images(inputs, plan.resolution)


def reduced_first(network: nn.Module, plan: Plan | None) -> nn.Module:
    """`network` for images at full size, where `plan` has a resolution: they are resized first."""
    if plan is None or plan.resolution is None:
        return network
    return _ReducedFirst(network, plan.resolution)


class _ReducedFirst(nn.Module):
    def __init__(self, network: nn.Module, size: Size) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, *inputs: Tensor) -> Any:
        return self.network(*resize_images(inputs, self.size))


def _is_image(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and tensor.is_floating_point()
