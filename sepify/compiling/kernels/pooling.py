"""Pooling in the blocked layout."""

from __future__ import annotations

from sepify.compiling.kernels.depthwise import Fold, plane_kernel
from sepify.compiling.kernels.shapes import Conv, Machine
from sepify.compiling.kernels.source import Buffer, Kernel, Source

MAXIMUM = Fold(
    "T.float32(-3.4028234663852886e38)",
    lambda acc, x, _position: f"T.max({acc}, {x})",
    lambda acc, _column: acc,
)


def max_pool_kernel(conv: Conv, machine: Machine) -> Kernel:
    """X `(N, C/v, H, W, v)` -> Y `(N, C/v, OH, OW, v)`; `conv` gives the window."""
    return plane_kernel("max_pool", conv, MAXIMUM, [_x(conv, machine)], machine)


def average_pool_kernel(conv: Conv, machine: Machine) -> Kernel:
    """As `max_pool_kernel`; every window counts its whole area, padding included."""
    scale = f"T.float32({1 / conv.window.area!r})"
    fold = Fold(
        "T.float32(0)", lambda acc, x, _p: f"{acc} + {x}", lambda acc, _column: f"{acc} * {scale}"
    )
    return plane_kernel("average_pool", conv, fold, [_x(conv, machine)], machine)


def global_average_kernel(conv: Conv, machine: Machine) -> Kernel:
    """X `(N, C/v, H, W, v)` -> Y `(N, C/v, 1, 1, v)`."""
    v, blocks = machine.lanes, machine.blocks(conv.channels)
    source = Source()
    with source.loop("image", conv.batch), source.loop("cb", blocks):
        source.local("acc", (v,))
        source.vector(v, "acc[q]", "T.float32(0)")
        with source.loop("y", conv.height), source.loop("x", conv.width):
            source.vector(v, "acc[q]", "acc[q] + X[image, cb, y, x, q]")
        scale = f"T.float32({1 / (conv.height * conv.width)!r})"
        source.vector(v, "Y[image, cb, 0, 0, q]", f"acc[q] * {scale}")
    return source.kernel("global_average", [_x(conv, machine)], (conv.batch, blocks, 1, 1, v))


def _x(conv: Conv, machine: Machine) -> Buffer:
    shape = (conv.batch, machine.blocks(conv.channels), conv.height, conv.width, machine.lanes)
    return Buffer("X", shape)
