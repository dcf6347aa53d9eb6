"""Files opened for reading: never waited for, and every fault in one sentence."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from sepify.errors import FileError
from sepify.faults import cause, reading

_SHELL_PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # open already: `<(command)`
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def require_file(path: Path) -> None:
    """Raise FileError for a folder, for nothing there, and for what may block or never end: a pipe,
    a device, a socket. A pipe that the shell opened (`<(command)`) may be read."""
    try:
        _require_plain(path, path.stat().st_mode)
    except FileNotFoundError as error:
        raise FileError(f"no such file: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        why = cause(error) if isinstance(error, OSError) else str(error)
        raise FileError(f"cannot read {path}: {why}") from error


def open_file(path: Path) -> BinaryIO:
    """A file open for reading, never waited for. Raises FileError as `require_file` does."""
    require_file(path)
    with reading(path, "a file"):
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    try:
        _require_plain(path, os.fstat(file.fileno()).st_mode)
        os.set_blocking(file.fileno(), True)
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The whole file. Raises FileError, also for one of more than `most` bytes."""
    with open_file(path) as file, reading(path, "a file"):
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise FileError(
            f"{path} has more than {most // 2**20} MiB, the most that is read of its kind"
        )
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _require_plain(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise FileError(f"{path} is a folder, not a file")
    if stat.S_ISREG(mode):
        return
    if stat.S_ISFIFO(mode) and str(path).startswith(_SHELL_PIPES):
        return
    kind = _KINDS.get(stat.S_IFMT(mode), "something special")
    raise FileError(f"{path} is {kind}, not a file")
