"""Text from outside (names, messages of other libraries) made safe to show."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

# what str.isprintable() lets through although nothing is seen: fillers, joiners, selectors, blanks
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def printable(text: str, *, lines: bool = False) -> str:
    r"""`text` with every character that a reader does not see as itself written as an escape.

    That is control characters (`\x1b`, `\n`), those that reorder or hide text (`\u202e`,
    `\u200b`), odd separators and half characters (`\udcff`, as in file names that are not UTF-8).
    Letters of every script, signs and emoji stay. With `lines`, line feeds and tabs stay as well:
    for our own texts of several lines, never for a name.
    """
    if text.isprintable() and not _INVISIBLE.search(text):
        return text
    return "".join(
        character
        if (character.isprintable() and not _INVISIBLE.match(character))
        or (lines and character in "\n\t")
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def printable_tree(value: Any) -> Any:
    """`value` with every text in it made printable: in dataclasses, dicts (their keys too), lists
    and tuples. Whatever else it holds is kept as it is."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_tree(key): printable_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [printable_tree(item) for item in value]
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        changed = {name: printable_tree(getattr(value, name)) for name in fields}
        return dataclasses.replace(value, **changed)
    return value
