"""What can be wrong with a file, or with the user's own code, in one sentence."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sepify.errors import FileError, InputError, SepifyError, first_line

T = TypeVar("T")

# never turned into an error of ours: a stop that somebody asked for, and a generator's own end
_STOPS = (KeyboardInterrupt, GeneratorExit)


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
