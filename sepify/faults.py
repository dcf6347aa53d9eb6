"""What can be wrong with a file, or with the user's own code, in one sentence."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from sepify.errors import FileError, InputError, SepifyError, first_line

T = TypeVar("T")

# never turned into an error of ours: a stop that somebody asked for, and a generator's own end
_STOPS = (KeyboardInterrupt, GeneratorExit)
_SHELL_PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # open already: `<(command)`
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def reading(path: Path | str, what: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a reader raises into a FileError that names the file, `what` it should be ("a
    plan", "an .npy file") and what is wrong; `advice` follows it. A SepifyError passes unchanged.
    """
    try:
        yield
    except (SepifyError, *_STOPS):
        raise
    except BaseException as error:  # Rust's panics are no Exception
        end = f"; {advice}" if advice else ""
        raise FileError(f"{_unread(path, what, error)}{end}") from error


@contextmanager
def users_code(what: str, kind: type[SepifyError] = InputError) -> Iterator[None]:
    """Turn whatever the user's own code raises into an error of `kind` that names it (`what`: "the
    metric f1"), and the type and message of what it raised. A SepifyError passes unchanged, and so
    does what is no Exception: a stop."""
    try:
        yield
    except SepifyError:
        raise
    except (Exception, SystemExit) as error:  # its code may call sys.exit()
        raise kind(f"{what} failed: {told(error)}") from error


def users_items(items: Iterable[T], what: str) -> Iterator[T]:
    """The items of the user's iterable. Raises InputError as `users_code` does."""
    with users_code(what):
        iterator = iter(items)
    while True:
        with users_code(what):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def told(error: BaseException) -> str:
    """Type and message of an error of somebody else's, in one line."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def cause(error: OSError) -> str:
    """What the system says is wrong."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


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


def _unread(path: Path | str, what: str, error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no such file: {path}"
    if isinstance(error, OSError) and error.errno:
        return f"cannot read {path}: {cause(error)}"
    if isinstance(error, MemoryError):
        return f"{path} is damaged, or too large for {what}: there is not enough memory for it"
    if isinstance(error, RecursionError):
        return f"{path} is not {what}: it is nested too deep"
    return f"{path} is damaged, or not {what}: {_briefly(error)}"


def _briefly(error: BaseException) -> str:
    # a KeyError's message is the key alone, a library's own types say enough
    return first_line(error) if isinstance(error, ValueError | OSError) else told(error)
