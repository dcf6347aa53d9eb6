"""What can happen to a file: bytes, JSON and zip archives, changed at random."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, True)
SCALARS = (*NUMBERS, None, "", "x" * 300, "\x1b[31m", "\ud800", "../../x", [], {}, [[]])
TEXTS = (b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 5000, b'{"a":' * 3000, b"\xef\xbb\xbf")
PIECES = (
    *TEXTS,
    b"\0" * 8,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"PK\x03\x04",
    b"{",
    b'"',
    b",",
    b"\n",
)


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """One to three changes of any bytes."""
    data = bytearray(content)
    for _ in range(random.randint(1, 3)):
        random.choice(_BYTES)(data, random)
    return bytes(data)


def _flip(data: bytearray, random: Random) -> None:
    for _ in range(random.choice((1, 1, 2, 8, 64)) if data else 0):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randint(0, len(data)) :]


def _insert(data: bytearray, random: Random) -> None:
    at = random.randint(0, len(data))
    data[at:at] = random.choice((random.choice(PIECES), random.randbytes(random.randint(1, 64))))


def _overwrite(data: bytearray, random: Random) -> None:
    at, piece = random.randint(0, len(data)), random.choice(PIECES)
    data[at : at + len(piece)] = piece


def _remove(data: bytearray, random: Random) -> None:
    at = random.randint(0, len(data))
    del data[at : at + random.randint(1, 64)]


def _swap(data: bytearray, random: Random) -> None:
    size = random.randint(1, max(1, len(data) // 4))
    a, b = (random.randint(0, max(0, len(data) - size)) for _ in range(2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


_BYTES = (_flip, _flip, _cut, _insert, _overwrite, _remove, _swap)


def mutate_json(content: bytes, random: Random) -> bytes:
    """One to three changes of keys and values, or of bytes."""
    if random.random() < 0.25:
        return mutate_bytes(content, random)
    document = json.loads(content)
    for _ in range(random.randint(1, 3)):
        random.choice(_VALUES)(document, random)
    text = json.dumps(document).encode()
    if random.random() < 0.25:  # what json.dumps would not write
        places = [at for at, byte in enumerate(text) if byte in b":,["] or [0]
        at = random.choice(places) + 1
        text = text[:at] + random.choice(TEXTS) + text[at:]
    if random.random() < 0.1 and b"{" in text:
        text = text.replace(b"{", b'{"name": 1, "name": 2, "format": 3,', 1)
    return text


def _container(document: Any, random: Random) -> Any:
    """Any list or object in it that is not empty."""
    found, waiting = [], [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list) and value:
            found.append(value)
            waiting += value.values() if isinstance(value, dict) else value
    return random.choice(found) if found else None


def _key(container: Any, random: Random) -> Any:
    return random.choice(list(container) if isinstance(container, dict) else range(len(container)))


def _replace(document: Any, random: Random) -> None:
    container = _container(document, random)
    if container is not None:
        container[_key(container, random)] = copy.deepcopy(random.choice(SCALARS))


def _delete(document: Any, random: Random) -> None:
    container = _container(document, random)
    if container is not None:
        del container[_key(container, random)]


def _add(document: Any, random: Random) -> None:
    container = _container(document, random)
    if isinstance(container, dict):
        container[random.choice(("new", "\x1b[0m", *container))] = random.choice(SCALARS)
    elif container is not None:
        container.append(copy.deepcopy(random.choice((*SCALARS, container[0]))))


def _deepen(document: Any, random: Random) -> None:
    container = _container(document, random)
    if container is not None:
        key = _key(container, random)
        for _ in range(random.choice((1, 200))):
            container[key] = [container[key]]


def _exchange(document: Any, random: Random) -> None:
    one, other = _container(document, random), _container(document, random)
    if one is not None and other is not None:
        one[_key(one, random)] = copy.deepcopy(other[_key(other, random)])


_VALUES = (_replace, _replace, _delete, _add, _deepen, _exchange)


def mutate_lines(content: bytes, random: Random) -> bytes:
    """One line of JSON lines changed, or any bytes."""
    lines = content.splitlines()
    if random.random() < 0.2 or not lines:
        return mutate_bytes(content, random)
    at = random.randrange(len(lines))
    lines[at] = mutate_json(lines[at], random).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def mutate_zip(content: bytes, random: Random) -> bytes:
    """One entry of an archive changed, checksums in order, or any bytes."""
    if random.random() < 0.25:
        return mutate_bytes(content, random)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    at = random.randrange(len(entries))
    info, data = entries[at]
    random.choice(_ENTRIES)(entries, at, random)
    if random.random() < 0.5:
        change = mutate_json if data[:1] in (b"{", b"[") else mutate_bytes
        entries[min(at, len(entries) - 1)] = (info, change(data, random))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for entry, body in entries:
            archive.writestr(entry.filename, body, entry.compress_type)
    return made.getvalue()


Entries = list[tuple[zipfile.ZipInfo, bytes]]


def _alter(entries: Entries, at: int, random: Random) -> None:
    info, data = entries[at]
    entries[at] = (info, mutate_bytes(data, random))


def _twice(entries: Entries, at: int, random: Random) -> None:
    entries.insert(random.randint(0, len(entries)), entries[at])


def _rename(entries: Entries, at: int, random: Random) -> None:
    info = copy.copy(entries[at][0])
    info.filename = random.choice(
        (info.filename.upper(), "../" + info.filename, info.filename + "x", "a\x1b[0m", "x" * 300)
    )
    entries[at] = (info, entries[at][1])


def _drop(entries: Entries, at: int, _random: Random) -> None:
    if len(entries) > 1:
        del entries[at]


_ENTRIES: tuple[Callable[[Entries, int, Random], None], ...] = (
    _alter,
    _alter,
    _twice,
    _rename,
    _drop,
)
