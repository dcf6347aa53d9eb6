"""Functions that hold something, such as a hook that writes to `self`: copied with the model.

copy.deepcopy takes a function for a constant. A copy of the model would then run the original's
hooks, which write to the original and to the lists that they were given.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

_CONSTANT = (
    *(bool, int, float, complex, str, bytes, type(None), type(...), type, slice),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout),
    *(types.BuiltinFunctionType, types.ModuleType),
)


class Closures:
    """Makes copies of functions known to copy.deepcopy, by its memo."""

    def __init__(self, memo: dict[int, Any]) -> None:
        self._memo = memo
        self._made: list[tuple[types.FunctionType, types.FunctionType]] = []
        self._seen: set[int] = set()

    def find(self, value: Any) -> None:
        """Make copies of the functions in `value`, empty until `fill`."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            if id(value) in self._seen or isinstance(value, _CONSTANT):
                continue
            self._seen.add(id(value))
            if isinstance(value, types.FunctionType):
                if id(value) not in self._memo and holds_something(value):
                    self._memo[id(value)] = made = _hollow(value)
                    self._made.append((value, made))
                    waiting += _held(value)
            elif isinstance(value, partial):
                waiting += (value.func, *value.args, *value.keywords.values())
            elif isinstance(value, dict):
                waiting += value.values()
            elif isinstance(value, (list, tuple, set, frozenset)):
                waiting += value

    def fill(self) -> None:
        """Give the copies of the functions copies of what these hold."""
        for given, made in self._made:
            for old, new in zip(given.__closure__ or (), made.__closure__ or (), strict=True):
                if not _is_empty(old):
                    new.cell_contents = self._copied(old.cell_contents)
            if given.__defaults__ is not None:
                made.__defaults__ = tuple(map(self._copied, given.__defaults__))
            if given.__kwdefaults__ is not None:
                held = given.__kwdefaults__.items()
                made.__kwdefaults__ = {name: self._copied(value) for name, value in held}

    def _copied(self, value: Any) -> Any:
        try:
            return copy.deepcopy(value, self._memo)
        except Exception:  # an open file or a lock: there is but one, and no state of the model's
            return value


def holds_something(function: types.FunctionType, above: frozenset[int] = frozenset()) -> bool:
    """Whether the function keeps anything that a call of it can change."""
    above |= {id(function)}
    return any(
        holds_something(value, above)
        if isinstance(value, types.FunctionType)
        else not isinstance(value, _CONSTANT)
        for value in _held(function)
        if id(value) not in above
    ) or bool(_rebound(function))


def _held(function: types.FunctionType) -> Iterator[Any]:
    """What its closure and its defaults hold."""
    for cell in function.__closure__ or ():
        if not _is_empty(cell):
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _rebound(function: types.FunctionType) -> list[str]:
    """Names of the closure that may be numbers which it counts up: `nonlocal`."""
    held = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return [
        name
        for name, cell in held
        if not _is_empty(cell) and type(cell.cell_contents) in (int, float, type(None))
    ]


def _is_empty(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False


def _hollow(function: types.FunctionType) -> types.FunctionType:
    """The same function over a closure of its own, which holds nothing yet."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ()) or None
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, None, cells
    )
    made.__dict__.update(function.__dict__)
    made.__qualname__ = function.__qualname__
    made.__module__ = function.__module__
    made.__doc__ = function.__doc__
    made.__annotations__ = dict(function.__annotations__)
    return made
