"""Plain JSON types -> a tree of frozen dataclasses, by their annotations."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from sepify.errors import FileError

T = TypeVar("T")


def decode(kind: type[T], value: Any, where: str) -> T:
    """`value` as a `kind`: a dataclass, str, int, float, bool, tuple of any length, dict with str
    keys, or one of these or None; Any is taken as it is. `where` is the path to the value, for
    messages.

    Raises FileError naming the first field that is missing, unknown or of another type.
    """
    return cast(T, _decode(kind, value, where))


def _decode(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _dataclass(cast(type, kind), value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _decode(kind, value, where)
    if origin is tuple:
        items = _of_type(list, value, where)
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if origin is dict:
        items = _of_type(dict, value, where)
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in items.items()}
    if kind is float:
        number = value if type(value) is int else _of_type(float, value, where)
        if not math.isfinite(number):
            raise FileError(f"{where} is not a finite number")
        return float(number)
    return _of_type(kind, value, where)


def _dataclass(kind: type, value: Any, where: str) -> Any:
    given = _of_type(dict, value, where)
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in names:
        if name not in given:
            raise FileError(f"{where}.{name} is missing")
    for name in given:
        if name not in names:
            raise FileError(f"{where}.{name} is not a field of a report")
    return kind(**{name: _decode(hints[name], given[name], f"{where}.{name}") for name in names})


def _of_type(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:  # not isinstance: true is no number here
        raise FileError(f"{where} is {type(value).__name__}, not {kind.__name__}")
    return value
