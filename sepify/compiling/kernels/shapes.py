"""What a kernel computes: a convolution's geometry, and what follows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sepify.compiling.kernels.elements import Element


@dataclass(frozen=True)
class Window:
    """A sliding window: kernel, stride, padding (top, left, bottom, right), dilation."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def area(self) -> int:
        """Positions in the window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def padded(self) -> bool:
        """Whether the window leaves the map."""
        return any(self.padding)

    def span(self, axis: int, outputs: int) -> int:
        """Input rows (axis 0) or columns (axis 1) that `outputs` neighbouring outputs need."""
        reach = (self.kernel[axis] - 1) * self.dilation[axis]
        return (outputs - 1) * self.stride[axis] + reach + 1


@dataclass(frozen=True)
class Conv:
    """A convolution: input (N, C, H, W), weight (O, C/groups, kh, kw), output (N, O, OH, OW)."""

    batch: int
    channels: int
    height: int
    width: int
    outputs: int
    window: Window
    out_height: int
    out_width: int
    groups: int = 1

    @property
    def pixels(self) -> int:
        """Output positions of one image."""
        return self.out_height * self.out_width

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole batch."""
        depth = self.channels // self.groups * self.window.area
        return self.batch * self.pixels * self.outputs * depth


@dataclass(frozen=True)
class Epilogue:
    """What happens to a result before it is stored: a residual is added, then it is clipped."""

    residual: bool = False
    clip: tuple[float, float] | None = None  # (0, inf) is ReLU

    def apply(self, element: Element, value: str, residual: str = "") -> str:
        """The stored expression for `value`, of type `element`."""
        if self.residual:
            value = f"{value} + {residual}"
        if self.clip is None:
            return value
        low, high = self.clip
        value = value if low == -math.inf else f"T.max({value}, {element.literal(low)})"
        return value if high == math.inf else f"T.min({value}, {element.literal(high)})"


def pair(value: Any) -> tuple[int, int]:
    """Two ints, from TVM's lists of them."""
    first, second = (int(item) for item in value)
    return first, second
