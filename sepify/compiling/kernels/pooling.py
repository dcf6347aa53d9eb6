"""Pooling in the blocked layout."""

from __future__ import annotations

from sepify.compiling.kernels.depthwise import Fold, plane_kernel
from sepify.compiling.kernels.elements import Element
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv
from sepify.compiling.kernels.source import Buffer, Kernel, Source


def maximum(element: Element) -> Fold:
    """Max pooling of numbers of this type."""
    return Fold(
        element.lowest,
        lambda acc, x, _position: f"T.max({acc}, {x})",
        lambda acc, _column: acc,
    )


def max_pool_kernel(conv: Conv, machine: Machine) -> Kernel:
    """X `(N, C/v, H, W, v)` -> Y `(N, C/v, OH, OW, v)`; `conv` gives the window."""
    return plane_kernel("max_pool", conv, maximum(machine.element), [_x(conv, machine)], machine)


def average_pool_kernel(conv: Conv, machine: Machine) -> Kernel:
    """As `max_pool_kernel`; every window counts its whole area, padding included."""
    element = machine.element
    scale = element.literal(1 / conv.window.area)
    fold = Fold(
        element.literal(0),
        lambda acc, x, _position: f"{acc} + {x}",
        lambda acc, _column: f"{acc} * {scale}",
    )
    return plane_kernel("average_pool", conv, fold, [_x(conv, machine)], machine)


def global_average_kernel(conv: Conv, machine: Machine) -> Kernel:
    """X `(N, C/v, H, W, v)` -> Y `(N, C/v, 1, 1, v)`."""
    v, blocks = machine.lanes, machine.blocks(conv.channels)
    source = Source(machine.element)
    with source.loop("image", conv.batch), source.loop("cb", blocks):
        source.local("acc", (v,))
        source.vector(v, "acc[q]", source.element.literal(0))
        with source.loop("y", conv.height), source.loop("x", conv.width):
            source.vector(v, "acc[q]", "acc[q] + X[image, cb, y, x, q]")
        scale = source.element.literal(1 / (conv.height * conv.width))
        source.vector(v, "Y[image, cb, 0, 0, q]", f"acc[q] * {scale}")
    return source.kernel("global_average", [_x(conv, machine)], (conv.batch, blocks, 1, 1, v))


def _x(conv: Conv, machine: Machine) -> Buffer:
    shape = (conv.batch, machine.blocks(conv.channels), conv.height, conv.width, machine.lanes)
    return machine.buffer("X", shape)
