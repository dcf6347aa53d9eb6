"""Plain JSON types -> a tree of frozen dataclasses, by their annotations."""

from __future__ import annotations

import collections.abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from sepify.errors import FileError
from sepify.storage.documents import read_json

T = TypeVar("T")
Readers = Mapping[Any, Callable[[Any, str], Any]]  # by annotation, of a value and where it is
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
_NONE: Readers = {}


def decode(kind: type[T], value: Any, where: str, readers: Readers = _NONE) -> T:
    """`value` as a `kind`: a dataclass, str, int, float, bool, Literal, list, tuple, dict with str
    keys, or one of these or None; Any is taken as it is. `where` is the path to the value, for
    messages; `readers` read the annotations that are none of these.

    Raises FileError naming the first field that is missing, unknown or of another type.
    """
    return cast(T, _decode(kind, value, where, readers))


def read_document(
    kind: type[T],
    path: Path | str,
    form: str,
    version: int,
    advice: str,
    readers: Readers = _NONE,
    upgrades: Mapping[int, Upgrade] | None = None,
) -> T:
    """A dataclass from a JSON file {"format": form, "version": version, **fields}. `upgrades` turn
    the fields of an older version into those of this one. Raises FileError that says what is wrong
    with the file and ends in `advice`: "measure again"."""
    upgrades = upgrades or {}
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != form:
        raise FileError(f'{path} is no {form}: "format" is not "{form}"; {advice}')
    found = value.get("version")
    if type(found) is not int or found not in (version, *upgrades):
        raise FileError(f"{path} is of version {found!r}, this sepify reads {version}; {advice}")
    given = {key: item for key, item in value.items() if key not in ("format", "version")}
    try:
        given = upgrades[found](given) if found in upgrades else given
        return decode(kind, given, form, readers)
    except FileError as error:
        raise FileError(f"{path} is damaged: {error}; {advice}") from error


def _decode(kind: Any, value: Any, where: str, readers: Readers) -> Any:
    if kind in readers:
        return readers[kind](value, where)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _dataclass(cast(type, kind), value, where, readers)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _decode(kind, value, where, readers)
    if origin is Literal:
        if type(value) is not str or value not in arguments:
            raise FileError(f"{where} is {value!r}, none of {', '.join(map(str, arguments))}")
        return value
    if origin in (tuple, list):
        return origin(_items(arguments, value, where, readers))
    if origin in (dict, collections.abc.Mapping):
        items = _of_type(dict, value, where)
        return {
            key: _decode(arguments[1], item, f"{where}.{key}", readers)
            for key, item in items.items()
        }
    if kind is float:
        number = value if type(value) is int else _of_type(float, value, where)
        if not math.isfinite(number):
            raise FileError(f"{where} is not a finite number")
        return float(number)
    return _of_type(kind, value, where)


def _items(kinds: Sequence[Any], value: Any, where: str, readers: Readers) -> list[Any]:
    items = _of_type(list, value, where)
    if len(kinds) == 1 or kinds[1] is ...:
        kinds = [kinds[0]] * len(items)
    if len(items) != len(kinds):
        raise FileError(f"{where} has {len(items)} items, not {len(kinds)}")
    pairs = enumerate(zip(kinds, items, strict=True))
    return [_decode(kind, item, f"{where}[{index}]", readers) for index, (kind, item) in pairs]


def _dataclass(kind: type, value: Any, where: str, readers: Readers) -> Any:
    given = _of_type(dict, value, where)
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    for name in names:
        if name not in given:
            raise FileError(f"{where}.{name} is missing")
    for name in given:
        if name not in names:
            raise FileError(f"{where}.{name} is not a field here")
    return kind(
        **{name: _decode(hints[name], given[name], f"{where}.{name}", readers) for name in names}
    )


def _of_type(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:  # not isinstance: true is no number here
        raise FileError(f"{where} is {type(value).__name__}, not {kind.__name__}")
    return value
