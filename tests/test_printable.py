from __future__ import annotations

import copy
import pickle
import sys
import unicodedata
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from sepify.errors import (
    DistillationError,
    FileError,
    SepifyError,
    SepifyWarning,
    UntrainedWarning,
)
from sepify.printable import printable, printable_tree

EVIL = "a\x1b[2J\x07\x7f\x9b31m\u202e\u2066\u2028\u200b\ufeff\udcff\ufe0f\u3164\U000e0041\r\nb"


def test_what_cannot_be_seen_becomes_an_escape() -> None:
    assert printable(EVIL) == (
        r"a\x1b[2J\x07\x7f\x9b31m\u202e\u2066\u2028\u200b\ufeff\udcff\ufe0f\u3164\U000e0041\r\nb"
    )
    assert printable(printable(EVIL)) == printable(EVIL)


@pytest.mark.parametrize(
    "text",
    ["", "layer1.0.conv2", "größe", "畳み込み", "свёртка", "🐈 95 % “x” ½", r"C:\new [red]"],
)
def test_what_can_be_seen_stays(text: str) -> None:
    assert printable(text) is text


def test_lines_stay_only_where_they_are_wanted() -> None:
    assert printable("a\n\tb\x1b\r", lines=True) == "a\n\tb\\x1b\\r"
    assert printable("a\n\tb") == r"a\n\tb"


def test_no_control_format_or_surrogate_character_gets_through() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"}:
            assert character not in printable(character), hex(number)


def test_every_text_of_a_value_is_made_printable() -> None:
    class Pair(NamedTuple):
        name: str
        count: int

    @dataclass(frozen=True)
    class Row:
        name: str
        more: tuple[Pair, ...]
        facts: dict[str, object]

    row = Row("\x1b", (Pair("\n", 1),), {"\u202e": ["\x00", 1.5, None]})
    before = copy.deepcopy(row)
    assert printable_tree(row) == Row(r"\x1b", (Pair(r"\n", 1),), {r"\u202e": [r"\x00", 1.5, None]})
    assert row == before


@pytest.mark.parametrize("kind", [SepifyError, FileError, DistillationError, SepifyWarning])
def test_errors_and_warnings_say_printable_text(kind: type[Exception]) -> None:
    error = kind(f"layer {EVIL} is odd")
    assert str(error) == f"layer {printable(EVIL)} is odd"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_warning_is_shown_printable() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn(f"layer {EVIL}", UntrainedWarning, stacklevel=1)
    shown = warnings.formatwarning(
        caught[0].message, caught[0].category, caught[0].filename, caught[0].lineno
    )
    assert printable(EVIL) in shown
    assert "\x1b" not in shown
