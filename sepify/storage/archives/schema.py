"""The JSON of an exported program, checked value by value against torch's own schema.

Whatever passes is written anew: fields that the schema does not know are left out, as are those
that torch would resolve and nobody here needs.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from torch._export.serde import schema
from torch._export.serde.union import _Union

MOST_LEVELS = 60
_LARGEST = 2**63
_FLOATS = frozenset({"Infinity", "-Infinity", "NaN"})

Rule = Callable[[Any], Any]
"""Takes a value of the right type, returns what to write in its place; raises SchemaRefusal."""
Rules = dict[Any, Rule]


class SchemaRefusal(Exception):
    """What is wrong with a value, in words that follow the file's name."""


def clean(kind: Any, value: Any, rules: Rules, place: str = "", levels: int = MOST_LEVELS) -> Any:
    """`value`, of the type `kind` of torch's schema, written anew.

    `rules` are asked about every value of a class, and about every field ("Node.target"), after
    its parts have been checked. Raises SchemaRefusal.
    """
    if levels < 0:
        raise SchemaRefusal("is damaged: its graph is nested too deep")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return clean(arguments[0], value, rules, place, levels)
    if origin in (typing.Union, types.UnionType):  # of a type and None
        inner = next(item for item in arguments if item is not type(None))
        return None if value is None else clean(inner, value, rules, place, levels)
    if isinstance(kind, typing.ForwardRef | str):
        kind = getattr(schema, kind if isinstance(kind, str) else kind.__forward_arg__)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(kind, value, rules, place, levels)
    if origin is list and isinstance(value, list):
        return [clean(arguments[0], item, rules, place, levels - 1) for item in value]
    if origin is dict and isinstance(value, dict):
        return {k: clean(arguments[1], v, rules, place, levels - 1) for k, v in value.items()}
    if not _is_plain(kind, value):
        raise SchemaRefusal(f"is damaged: {place or 'its program'} holds {value!r:.60}")
    return value


def _record(kind: type, value: Any, rules: Rules, place: str, levels: int) -> Any:
    if not isinstance(value, dict):
        raise SchemaRefusal(f"is damaged: {place or 'its program'} holds {value!r:.60}")
    fields = _fields(kind)
    if issubclass(kind, _Union):
        if len(value) != 1 or next(iter(value)) not in fields:
            raise SchemaRefusal(f"is damaged: {kind.__name__} holds {value!s:.60}")
        given = value
    else:
        missing = [name for name, (_, required) in fields.items() if required and name not in value]
        if missing:
            raise SchemaRefusal(f"is damaged: {kind.__name__} lacks '{missing[0]}'")
        given = {name: value[name] for name in fields if name in value}
    made = {}
    for name, item in given.items():
        where = f"{kind.__name__}.{name}"
        made[name] = clean(fields[name][0], item, rules, where, levels - 1)
        if where in rules:
            made[name] = rules[where](made[name])
    return rules[kind](made) if kind in rules else made


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """The type of each field, and whether it must be there."""
    hints = typing.get_type_hints(kind, globalns=vars(schema))
    return {
        field.name: (
            hints[field.name],
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
    }


def _is_plain(kind: Any, value: Any) -> bool:
    if kind is float:
        return isinstance(value, float) or value in _FLOATS or _is_integer(value)
    if isinstance(kind, type) and issubclass(kind, IntEnum):
        return type(value) is int and value in set(kind)
    if kind is int:
        return _is_integer(value)
    return kind in (str, bool) and type(value) is kind


def _is_integer(value: Any) -> bool:
    return type(value) is int and -_LARGEST <= value < _LARGEST
