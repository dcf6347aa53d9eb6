"""On which line of a JSON text each value stands, for messages about files that people edit."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from typing import Any

from sepify.errors import PlanError

Path = tuple[str | int, ...]  # keys and indices from the top, as ("convolutions", 3, "rank")

_SCALAR = json.JSONDecoder()


def read_with_lines(text: str) -> tuple[Any, dict[Path, int]]:
    """The value of valid JSON, and the line, from 1, on which each part of it begins (of a member
    of an object: its key). Raises PlanError for a key that is given twice, which JSON allows."""
    lines: dict[Path, int] = {}

    ends = [match.start() for match in re.finditer("\n", text)]

    def line(index: int) -> int:
        return bisect_left(ends, index) + 1

    def skip(index: int) -> int:
        while text[index] in " \t\n\r":
            index += 1
        return index

    def value(index: int, path: Path) -> tuple[Any, int]:
        lines.setdefault(path, line(index))
        if text[index] == "{":
            return members(index, path)
        if text[index] == "[":
            return items(index, path)
        return _SCALAR.raw_decode(text, index)

    def members(index: int, path: Path) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        index = skip(index + 1)
        while text[index] != "}":
            at = index
            key, index = _SCALAR.raw_decode(text, index)
            if key in found:
                raise PlanError(f'line {line(at)}: "{key}" is given twice')
            here = (*path, key)
            lines[here] = line(at)
            found[key], index = value(skip(skip(index) + 1), here)
            index = skip(index)
            if text[index] == ",":
                index = skip(index + 1)
        return found, index + 1

    def items(index: int, path: Path) -> tuple[list[Any], int]:
        found: list[Any] = []
        index = skip(index + 1)
        while text[index] != "]":
            item, index = value(index, (*path, len(found)))
            found.append(item)
            index = skip(index)
            if text[index] == ",":
                index = skip(index + 1)
        return found, index + 1

    return value(skip(0), ())[0], lines
