"""Text, JSON and JSON lines."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from sepify.errors import FileError
from sepify.faults import reading
from sepify.storage.reading import open_file, read_bytes

LARGEST = 64 * 2**20  # bytes of a document; the plan of a network of 1,000 layers has one MiB
_STRING = r'"(?:\\.|[^"\\])*"'
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: Path | str) -> str:
    """Read UTF-8 text, with or without a byte order mark; "-" is stdin. Raises FileError naming the
    file."""
    stdin = str(path) == "-"
    content = _stdin() if stdin else read_bytes(Path(path), LARGEST)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        name = "stdin" if stdin else path
        raise FileError(f"{name} is not a text file: it is not UTF-8") from error


def read_json(path: Path | str) -> Any:
    """Read JSON. Raises FileError naming the file and the fault, as `parse_json` does."""
    return parse_json(read_text(path), path)


def parse_json(text: str | bytes, path: Path | str, repeated_keys: bool = False) -> Any:
    """The JSON that `text`, read from `path`, holds. Its numbers are finite, whole ones have at
    most 64 bits, its strings are text, and no object has a key twice unless `repeated_keys`.

    Raises FileError naming the file and, where the JSON itself is at fault, line and column.
    """
    try:
        with reading(path, "JSON"):
            value = json.loads(
                text,
                parse_int=_whole,
                parse_float=_finite,
                parse_constant=_no_number,
                object_pairs_hook=None if repeated_keys else _once,
            )
            if not isinstance(text, str) or _SURROGATE.search(text):
                _require_text(value)
            return value
    except FileError as error:
        fault = error.__cause__
        if isinstance(fault, _NoNumber):
            fault = json.JSONDecodeError(str(fault), str(text), fault.position(str(text)))
        if isinstance(fault, json.JSONDecodeError):
            where = f"line {fault.lineno}, column {fault.colno}"
            raise FileError(f"{path} is not valid JSON: {fault.msg} at {where}") from fault
        raise


def read_lines(path: Path | str) -> list[str]:
    """The lines of a file that is only appended to; none if it does not exist. Bytes that are not
    UTF-8 are replaced: they belong to a line that was cut short. Raises FileError."""
    path = Path(path)
    with reading(path, "a file of lines"):
        if not path.exists():
            return []
        with open_file(path) as file:
            text = file.read().decode("utf-8", errors="replace")
        return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def parse_lines(lines: list[str], parse: Callable[[Any, str], object]) -> list[int]:
    """Give `parse` the JSON of each line in turn, and the line; the numbers, from 1, of the damaged
    ones: no JSON, or refused by `parse` with any error. Empty lines are nothing."""
    damaged = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            with reading("line", "a record"):
                parse(parse_json(line, "line"), line)
        except FileError:
            damaged.append(number)
    return damaged


def damaged_lines(path: Path, numbers: list[int]) -> str:
    """That lines of a file were skipped, in words."""
    where = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"{path}: {len(numbers)} damaged line(s) skipped (line {where})"


def _stdin() -> bytes:
    if sys.stdin is None:
        raise FileError("cannot read stdin: it is closed")
    with reading("stdin", "text"):
        stream = getattr(sys.stdin, "buffer", None)  # who replaced it may have given text alone
        content = stream.read(LARGEST + 1) if stream else sys.stdin.read(LARGEST + 1).encode()
    if len(content) > LARGEST:
        raise FileError(f"stdin has more than {LARGEST // 2**20} MiB, the most that is read")
    return content


def _whole(digits: str) -> int:
    # int() itself refuses more than some thousand digits
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**64:
        raise _NoNumber(f"the number {digits[:20]}... is too large", digits)
    return number


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise _NoNumber(f"the number {digits[:20]} is too large", digits)
    return number


class _NoNumber(ValueError):
    """What Python's reader takes for a number, and we do not."""

    def __init__(self, message: str, token: str) -> None:
        super().__init__(message)
        self._token = token

    def position(self, text: str) -> int:
        """Where it stands first, outside of strings."""
        tokens = re.compile(_STRING + "|" + re.escape(self._token))
        return next((found.start() for found in tokens.finditer(text) if found[0][0] != '"'), 0)


def _no_number(name: str) -> NoReturn:
    raise _NoNumber(f"{name} is not a number of JSON", name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is given twice")
    return found


def _require_text(value: Any) -> None:
    """Half a surrogate pair can be escaped in JSON, and is no character."""
    json.dumps(value, ensure_ascii=False).encode()
