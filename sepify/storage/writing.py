"""Writes that are whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sepify.errors import FileError
from sepify.storage.faults import cause


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, a file or a folder; moved over `path` if the block succeeds,
    removed if it fails. An old file is replaced in one step; an old folder is swapped out.

    Raises FileError if the place cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise FileError(f"cannot write {path}: {cause(error)}; choose another place") from error
    temporary = scratch / path.name
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            path.rename(scratch / "old")
        temporary.replace(path)
    except OSError as error:
        raise FileError(f"cannot write {path}: {cause(error)}; nothing was changed") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def require_writable(folder: Path | str) -> None:
    """Raise FileError now if `folder` could not be written to at the end of long work. The probe
    has a name of its own: several processes may ask about one folder at once."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=".sepify-write-test-", dir=folder):
            pass
    except OSError as error:
        raise FileError(
            f"cannot write to {folder}: {cause(error)}; choose another place"
        ) from error


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text, whole or not at all; "-" is stdout."""
    if str(path) == "-":
        sys.stdout.write(text)
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON, whole or not at all; NaN is refused (it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_line(path: Path | str, line: str) -> None:
    """Add one line in one write: whoever else appends, lines stay whole. A half line that a killed
    writer left is ended first. Raises FileError."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            torn = False
            if size:
                file.seek(size - 1)
                torn = file.read(1) != b"\n"
            file.write((("\n" if torn else "") + line + "\n").encode())
    except OSError as error:
        raise FileError(f"cannot write {path}: {cause(error)}; choose another place") from error


def pack(folder: Path, path: Path, name: str) -> None:
    """Write the files of `folder` to `path` as .tar.xz, in a folder `name`, the same bytes every
    time."""
    import tarfile

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(path, "w:xz", preset=9) as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, f"{name}/{file.name}", filter=plain)
