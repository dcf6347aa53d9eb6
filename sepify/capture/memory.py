"""What a model's Python objects hold, so that a run or a trace of it can be seen and undone.

A detector keeps the anchors of the last image size, another model a cache. One copy of a model
serves every run and every trace of a capture if all that they change in it can be put back.
"""

from __future__ import annotations

import operator
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sepify.capture.closures import holds_something

_MOST = 100_000  # objects; what holds more than a model's settings is not followed
_CONTAINERS = frozenset({dict, OrderedDict, defaultdict, list, set, deque})
_LEAVES = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), type, slice),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout),
    *(types.BuiltinFunctionType, types.ModuleType),
)  # never changed, or not a model's own
_IS_LEAF = frozenset(_LEAVES)


class Memory:
    """What the modules of a model, and the objects and containers that they reach, hold now.

    Of tensors only registered buffers can be put back; that others were written to is seen. What a
    closure holds, and the contents of an object that is not Python's, cannot be.
    """

    def __init__(self, model: nn.Module) -> None:
        self._held: list[tuple[Any, Any]] = []  # a container, and a shallow copy of it
        self._empty: list[Any] = []  # containers, most of all registries of hooks
        self._seen: set[int] = set()
        self._tensors: dict[int, Tensor] = {}
        self.whole = True  # whether everything was followed
        self._follow(model)
        buffers = [b for m in model.modules() for b in m._buffers.values() if b is not None]
        self._buffers = [(buffer, buffer.clone()) for buffer in buffers]
        for buffer in buffers:
            self._tensors.pop(id(buffer), None)
        self._versions = [(tensor, _version(tensor)) for tensor in self._tensors.values()]

    def changed(self) -> bool:
        """Whether anything but the values of tensors is otherwise than it was."""
        return any(self._empty) or not all(_is_same(now, before) for now, before in self._held)

    def restore(self) -> bool:
        """Put everything back; whether that was possible."""
        if not self.whole:
            return False
        for filled in filter(None, self._empty):
            filled.clear()
        for now, before in self._held:
            if not _is_same(now, before):
                _refill(now, before)
        with torch.no_grad():
            for buffer, before in self._buffers:  # BatchNorm does not count its writes
                buffer.copy_(before)
        return all(_version(tensor) == version for tensor, version in self._versions)

    def _follow(self, model: nn.Module) -> None:
        waiting: list[Any] = [model]
        while waiting:
            value = waiting.pop()
            kind = type(value)
            if kind in _IS_LEAF or id(value) in self._seen:
                continue
            self._seen.add(id(value))
            if kind is types.FunctionType:
                self.whole &= not holds_something(value)
                continue
            if isinstance(value, Tensor):
                self._tensors[id(value)] = value
            elif kind in _CONTAINERS:
                waiting += self._hold(value)
            elif kind in (tuple, frozenset):
                waiting += value
            elif kind is partial:
                waiting += (value.func, *value.args, *value.keywords.values())
            elif kind is types.MethodType:
                waiting.append(value.__self__)
            elif isinstance(value, (type, torch.jit.ScriptModule)):
                continue  # a script's state is in its tensors
            elif hasattr(value, "__dict__") and len(self._seen) < _MOST:
                waiting += self._hold(vars(value))
            else:
                self.whole = False

    def _hold(self, container: Any) -> Iterable[Any]:
        """Note a container; what is in it."""
        if not container:
            self._empty.append(container)
            return ()
        self._held.append((container, container.copy()))
        return _inside(container)


def _inside(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _is_same(now: Any, before: Any) -> bool:
    if len(now) != len(before):
        return False
    if isinstance(now, set):
        return {*map(id, now)} == {*map(id, before)}
    return all(map(operator.is_, _inside(now), _inside(before)))


def _refill(now: Any, before: Any) -> None:
    now.clear()
    if isinstance(now, (list, deque)):
        now.extend(before)
    else:
        now.update(before)


def _version(tensor: Tensor) -> int:
    """How often it was written to; torch does not count it for tensors of inference mode."""
    return -1 if tensor.is_inference() else tensor._version
