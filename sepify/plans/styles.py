"""What stands between the depthwise and the pointwise part of a separated convolution."""

from __future__ import annotations

from typing import Literal

Style = Literal["linear", "mobilenet", "mobilenet-relu6"]
STYLES: tuple[Style, ...] = ("linear", "mobilenet", "mobilenet-relu6")
CEILINGS: dict[Style, float | None] = {  # of the ReLU, None where there is none
    "linear": None,
    "mobilenet": float("inf"),
    "mobilenet-relu6": 6.0,
}


def shape_words(style: Style, width: float, resolution: tuple[int, int] | None) -> str:
    """ "style mobilenet, width 0.75, images of 160x160"; the style always, the others where they
    are not the original's."""
    parts = [f"style {style}"]
    parts += [] if width == 1 else [f"width {width:g}"]
    parts += [] if resolution is None else [f"images of {resolution[0]}x{resolution[1]}"]
    return ", ".join(parts)
