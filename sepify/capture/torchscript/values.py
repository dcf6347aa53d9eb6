"""What a TorchScript value is while it is being imported.

Anything that does not depend on the run is itself: an int, a string, None, a constant tensor, a
list or dict of such. What does is a `Traced`: the value it has for the example input, and the node
that computes it. Lists, tuples and dicts are always Python's own, with `Traced` leaves, so that
TorchScript's mutable lists and their aliasing are Python's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from torch import Tensor, fx


class Dependence(IntEnum):
    """What a value was computed from: the more it depends on, the less may be assumed of it."""

    FIXED = 0  # constants and weights
    SHAPE = 1  # sizes of the input
    DATA = 2  # what is in the input


@dataclass(eq=False)
class Traced:
    """A value of the run. Mutable, because an in-place operation changes what a *value* is, for
    everybody who holds it."""

    concrete: Any
    node: fx.Node
    content: Dependence
    extent: Dependence = Dependence.FIXED  # of a tensor's shape


@dataclass(frozen=True)
class ModuleRef:
    """A submodule (or class instance) reached from the root by attribute access."""

    handle: Any  # torch._C.ScriptObject
    path: str

    def child(self, name: str) -> str:
        """The dotted path of attribute `name`."""
        return f"{self.path}.{name}" if self.path else name


def leaves(value: Any) -> Iterator[Any]:
    """Every leaf of nested lists, tuples and dicts."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    else:
        yield value


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """`value` with every leaf of its lists, tuples and dicts replaced."""
    if isinstance(value, list):
        return [map_leaves(function, item) for item in value]
    if isinstance(value, tuple):
        return tuple(map_leaves(function, item) for item in value)
    if isinstance(value, dict):
        return {key: map_leaves(function, item) for key, item in value.items()}
    return function(value)


def concrete(value: Any) -> Any:
    """`value` as it is for the example input."""
    return map_leaves(lambda leaf: leaf.concrete if isinstance(leaf, Traced) else leaf, value)


def is_known(value: Any) -> bool:
    """Whether nothing in `value` depends on the run."""
    return not any(isinstance(leaf, Traced) for leaf in leaves(value))


def content_of(value: Any) -> Dependence:
    """The most that the contents of any leaf depend on."""
    found = (leaf.content for leaf in leaves(value) if isinstance(leaf, Traced))
    return max(found, default=Dependence.FIXED)


def extent_of(value: Any) -> Dependence:
    """The most that a shape computed from `value` can depend on: tensors' shapes, and numbers."""
    found = (
        leaf.extent if isinstance(leaf.concrete, Tensor) else leaf.content
        for leaf in leaves(value)
        if isinstance(leaf, Traced)
    )
    return max(found, default=Dependence.FIXED)


def is_number(value: Any) -> bool:
    """Whether `value` is an int, float or bool, of the run or not."""
    return isinstance(value.concrete if isinstance(value, Traced) else value, (int, float))
