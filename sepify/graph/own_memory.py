"""What a model's Python objects hold, so that a run or a trace of it can be seen and undone.

A detector keeps the anchors of the last image size, another model a cache. One copy of a model
serves every run and every trace of a capture if all that they change in it can be put back.
"""

from __future__ import annotations

import operator
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sepify.graph.closures import holds_something

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
        named = [(m, name, b) for m in model.modules() for name, b in m._buffers.items()]
        self._owners = [(m, name) for m, name, b in named if b is not None]
        buffers = [b for _, _, b in named if b is not None]
        self._buffers = [(buffer, buffer.clone()) for buffer in buffers]
        self._before = {id(now): before for now, before in self._held}
        for buffer in buffers:
            self._tensors.pop(id(buffer), None)
        self._versions = [(tensor, _version(tensor)) for tensor in self._tensors.values()]

    def changed(self) -> bool:
        """Whether anything but the values of tensors is otherwise than it was."""
        return any(self._empty) or not all(_is_same(now, before) for now, before in self._held)

    def may_be_written(self) -> bool:
        """Whether anything is otherwise than it was, whoever wrote it."""
        return (
            self.changed()
            or any(_version(tensor) != version for tensor, version in self._versions)
            or not all(same_values(buffer, before) for buffer, before in self._buffers)
        )

    def written(self, model: nn.Module) -> tuple[str, ...]:
        """By name, what `model`, which this is of, has written since, but for what torch's own
        layers write: statistics, weights that hooks compute."""
        names = [
            name
            for path, module in model.named_modules()
            if not (_is_torchs(module) or isinstance(module, torch.jit.ScriptModule))
            for name in self._written_in(path, module)
        ]
        paths = {module: path for path, module in model.named_modules()}
        for (module, name), (buffer, before) in zip(self._owners, self._buffers, strict=True):
            if not _is_torchs(module) and not same_values(buffer, before):
                names.append(f"{paths[module]}.{name}".lstrip("."))
        known = set(map(id, (vars(m) for m in model.modules())))
        known |= {id(registry) for m in model.modules() for registry in _registries(m)}
        known |= {id(buffer) for buffer, _ in self._buffers}
        elsewhere = [now for now, before in self._held if not _is_same(now, before)]
        elsewhere += filter(None, self._empty)
        elsewhere += [tensor for tensor, version in self._versions if _version(tensor) != version]
        names += [_place(model, item) for item in elsewhere if id(item) not in known]
        return tuple(dict.fromkeys(name for name in names if name))

    def _written_in(self, path: str, module: nn.Module) -> Iterator[str]:
        """The module's attributes that are others than before."""
        prefix = f"{path}." if path else ""
        for registry in (vars(module), *_registries(module)):
            before = self._before.get(id(registry), {})
            for name in dict.fromkeys((*before, *registry)):
                if before.get(name, _NOTHING) is not registry.get(name, _NOTHING):
                    yield f"{prefix}{name}"

    def go_on(self, factor: int) -> None:
        """Move the numbers that were changed since as far as `factor` such changes do."""
        for now, before in self._held:
            if isinstance(now, dict):
                for key, was in before.items():
                    if _is_count(was) and _is_count(now.get(key)):
                        now[key] = was + factor * (now[key] - was)
        with torch.no_grad():
            for buffer, before in self._buffers:
                if buffer.numel() == 1:
                    buffer.copy_(before + factor * (buffer - before))

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


_NOTHING = object()


def _registries(module: nn.Module) -> tuple[Any, ...]:
    return (module._parameters, module._buffers, module._modules)


def _is_torchs(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return str(module.original_name).startswith(("BatchNorm", "InstanceNorm", "SyncBatch"))
    return type(module).__module__.startswith("torch.nn.")


def _is_count(value: Any) -> bool:
    return type(value) in (int, float)


def same_values(now: Tensor, before: Tensor) -> bool:
    """Whether both hold the same, NaN being the same as NaN."""
    if now.shape != before.shape:
        return False
    if torch.equal(now, before):
        return True
    floating = now.is_floating_point() and now.dtype == before.dtype
    return floating and torch.allclose(now, before, rtol=0, atol=0, equal_nan=True)


def _place(model: nn.Module, item: Any) -> str:
    """The attribute through which `item` is reached; "" if it is one of a layer of torch's."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules") and _reaches(value, item):
                return "" if _is_torchs(module) else f"{path}.{name}" if path else name
    return "" if isinstance(item, nn.Parameter) else "something that it holds"


def _reaches(value: Any, item: Any, depth: int = 4) -> bool:
    if value is item or getattr(value, "__dict__", None) is item:
        return True
    if depth == 0 or isinstance(value, nn.Module):
        return False
    held = value if type(value) in (*_CONTAINERS, tuple) else getattr(value, "__dict__", ())
    return any(_reaches(inner, item, depth - 1) for inner in _inside(held))


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
