"""Whether a tensor lies within the bytes that are there for it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

MOST_DIMENSIONS = 64
_LARGEST = 2**62


def fits(sizes: Sequence[int], strides: Sequence[int], offset: int, elements: int) -> bool:
    """Whether every element of a tensor (sizes, strides and offset in elements) lies within a
    storage of so many elements."""
    numbers = [*sizes, *strides, offset, elements]
    if any(type(number) is not int or not 0 <= number < _LARGEST for number in numbers):
        return False
    if len(sizes) != len(strides) or len(sizes) > MOST_DIMENSIONS:
        return False
    if prod(sizes) == 0:
        return offset <= elements and prod(n for n in sizes if n) < _LARGEST
    furthest = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    return furthest < elements and prod(sizes) < _LARGEST
