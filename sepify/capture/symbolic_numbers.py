"""`int`, `float`, `min` and `max` that leave a size a variable, for the model's own source files.

Python's own must answer with a number of the example, which fixes the graph to it:
`int(x.shape[-2])` does, without need. So while a model is traced, other functions stand under these
names in the modules that its classes and their helpers come from.
"""

from __future__ import annotations

import builtins
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from inspect import isfunction
from typing import Any

import torch
from torch import nn

from sepify.capture.proxies import ValueProxy

_NOT_THE_USERS = frozenset({*sys.stdlib_module_names, "torch", "numpy", "sepify"}) - {"__main__"}
_FLOOR, _CEIL = math.floor, math.ceil  # torch.fx puts others in their place while it traces


@contextmanager
def soft_numbers(model: nn.Module) -> Iterator[None]:
    """Replace the functions within the block."""
    spaces = _name_spaces(model)
    put = [(space, name) for space in spaces for name in _SOFT if name not in space]
    for space, name in put:
        space[name] = _SOFT[name]
    try:
        yield
    finally:
        for space, name in put:
            del space[name]


def _name_spaces(model: nn.Module) -> list[dict[str, Any]]:
    """The namespaces of the modules that define the model's classes or functions that these use.

    Those of torch and of Python itself are left out.
    """
    own = {type(module).__module__ for module in model.modules()}
    known = [sys.modules[name] for name in own if name in sys.modules]
    functions = [f for module in known for f in list(vars(module).values()) if isfunction(f)]
    names = own | {str(function.__module__) for function in functions}
    users = (n for n in names if n in sys.modules and n.partition(".")[0] not in _NOT_THE_USERS)
    return [vars(sys.modules[name]) for name in users]


class _Kind(type):
    """Stands for a builtin type: the same instances, another answer for a proxy."""

    kind: type
    convert: Callable[[ValueProxy], Any]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], ValueProxy) and _is_number(args[0]):
            return cls.convert(args[0])
        return cls.kind(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        value = instance.known.value if isinstance(instance, ValueProxy) else instance
        return isinstance(value, cls.kind)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.kind)


def _to_int(proxy: ValueProxy) -> Any:
    value = proxy.known.value
    if isinstance(value, int):
        return proxy
    function = _FLOOR if value >= 0 else _CEIL
    return proxy.tracer.create_proxy("call_function", function, (proxy,), {})


class _Int(metaclass=_Kind):
    kind = builtins.int
    convert = staticmethod(_to_int)


class _Float(metaclass=_Kind):
    kind = builtins.float
    convert = staticmethod(lambda proxy: proxy * 1.0)


def _soft_extreme(original: Callable[..., Any], of_sizes: Callable[..., Any]) -> Callable[..., Any]:
    def extreme(*args: Any, **kwargs: Any) -> Any:
        proxies = [a for a in args if isinstance(a, ValueProxy)]
        numbers = all(map(_is_number, proxies)) and not kwargs and len(args) > 1
        if not proxies or not numbers:
            return original(*args, **kwargs)
        tracer = proxies[0].tracer
        return reduce(lambda a, b: tracer.create_proxy("call_function", of_sizes, (a, b), {}), args)

    return extreme


def _is_number(proxy: ValueProxy) -> bool:
    return type(proxy.known.value) in (builtins.int, builtins.float)


_SOFT: dict[str, Any] = {
    "int": _Int,
    "float": _Float,
    "min": _soft_extreme(builtins.min, torch.sym_min),
    "max": _soft_extreme(builtins.max, torch.sym_max),
}
