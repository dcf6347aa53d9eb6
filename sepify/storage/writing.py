"""Text, bytes, JSON and what torch writes, each whole or absent; lines that are appended."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from sepify.errors import FileError, first_line
from sepify.faults import cause
from sepify.storage.atomic import atomic_path, scratch_folder

if TYPE_CHECKING:
    from typing_extensions import Buffer


class _TorchFile(io.BufferedIOBase):
    """A file for torch's writers in C++, which end the process where a write raises: the first
    fault is kept for later, and what comes after it is dropped."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.fault: OSError | None = None

    def write(self, content: Buffer) -> int:
        self._try(lambda: self._file.write(content))
        return memoryview(content).nbytes

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._try(lambda: self._file.seek(offset, whence))

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def _try(self, step: Callable[[], int]) -> int:
        if self.fault is None:
            try:
                return step()
            except OSError as error:
                self.fault = error
        return 0


@contextmanager
def torch_file(path: Path | str) -> Iterator[BinaryIO]:
    """A file to hand to torch.save and the like, whole or absent. Raises FileError, where torch
    itself would abort the process on a full disk."""
    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:
                wrapped = _TorchFile(file)
                yield cast("BinaryIO", wrapped)
                if wrapped.fault is not None:
                    raise wrapped.fault
        except RuntimeError as error:  # what torch finds wrong with what it should write
            raise FileError(
                f"cannot write {path}: {first_line(error)}; nothing was changed"
            ) from error


def require_writable(folder: Path | str) -> None:
    """Raise FileError now if `folder` could not be written to at the end of long work. Several
    processes may ask about one folder at once."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder):
            pass
    except OSError as error:
        raise FileError(
            f"cannot write to {folder}: {cause(error)}; choose another place"
        ) from error


def results_stream() -> TextIO:
    """What stdout is for results: the command line keeps it for them, whatever a model prints."""
    return cast(TextIO, getattr(sys.stdout, "results", sys.stdout))


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text, whole or not at all; "-" is stdout."""
    if str(path) == "-":
        results_stream().write(text)
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
