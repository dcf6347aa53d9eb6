"""Between `(N, C, H, W)` and the blocked layout."""

from __future__ import annotations

from collections.abc import Callable

from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.source import Kernel, Shape, Source
from sepify.compiling.kernels.tiles import task_count

_COPY_COST = 4  # a copied element is worth as much time as this many multiply-adds


def pack_kernel(shape: Shape, machine: Machine) -> Kernel:
    """X `(N, C, H, W)` -> Y `(N, C/v, H, W, v)`, channels padded with zeros."""
    batch, channels, height, width = shape
    v, blocks = machine.lanes, machine.blocks(channels)

    def body(source: Source, lanes: int) -> None:
        with source.loop("x", width):
            with source.loop("c", lanes):
                source.line(f"Y[image, cb, y, x, c] = X[image, cb*{v} + c, y, x]")
            if lanes < v:
                with source.loop("c", v - lanes):
                    source.line(f"Y[image, cb, y, x, c + {lanes}] = {source.element.literal(0)}")

    source = _rows(shape, machine, body)
    return source.kernel("pack", [machine.buffer("X", shape)], (batch, blocks, height, width, v))


def unpack_kernel(shape: Shape, machine: Machine) -> Kernel:
    """X `(N, C/v, H, W, v)` -> Y `shape`, `(N, C, H, W)`."""
    batch, channels, height, width = shape
    v, blocks = machine.lanes, machine.blocks(channels)

    def body(source: Source, lanes: int) -> None:
        with source.loop("c", lanes), source.loop("x", width):
            source.line(f"Y[image, cb*{v} + c, y, x] = X[image, cb, y, x, c]")

    source = _rows(shape, machine, body)
    return source.kernel("unpack", [machine.buffer("X", (batch, blocks, height, width, v))], shape)


def _rows(shape: Shape, machine: Machine, body: Callable[[Source, int], None]) -> Source:
    """Write `body` for each row of each block, told how many of its lanes are real channels."""
    batch, channels, height, width = shape
    v, blocks = machine.lanes, machine.blocks(channels)
    wanted = min(task_count(_COPY_COST * blocks * v * height * width, machine), height)
    chunks = max(n for n in range(1, wanted + 1) if height % n == 0)
    full, rest = divmod(channels, v)
    source = Source(machine.element)
    with source.loop("task", batch * chunks, "parallel"):
        source.line(f"image = T.meta_var(task // {chunks})")
        for count, first, lanes in ((full, 0, v), (1 if rest else 0, full, rest)):
            if count:
                with source.loop("co", count), source.loop("yo", height // chunks):
                    source.line(f"cb = T.meta_var(co + {first})")
                    source.line(f"y = T.meta_var(task % {chunks} * {height // chunks} + yo)")
                    body(source, lanes)
    return source
