"""Standard output and error that may be full, or gone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from sepify.errors import FileError
from sepify.faults import cause


@contextmanager
def checked_streams() -> Iterator[None]:
    """Within it, stdout that cannot be written raises FileError, also as it is flushed at the end;
    stderr that cannot be written is silent, for there is nowhere left to say so."""
    _fill_closed()
    _part_results()
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, _Checked(out)), cast(TextIO, _Silent(err))
    try:
        yield
    finally:
        checked = sys.stdout
        sys.stdout, sys.stderr = out, err
        if isinstance(checked, _Checked):
            checked.end()


def _part_results() -> None:
    """From now on only sys.stdout reaches stdout. What C++ or another process prints there
    reaches stderr: also at the very end, when C++ empties its buffers.

    A terminal shows both as before. A stream that is not the process's own is left alone.
    """
    out = sys.stdout
    if not _is_own(out) or out.isatty():
        return
    out.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(own, "w", encoding=out.encoding, errors=out.errors)  # noqa: PTH123, SIM115


def _is_own(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.fileno() == 1
    except (OSError, ValueError):  # one in memory has no number; ValueError: it is closed
        return False


@contextmanager
def results_apart() -> Iterator[None]:
    """Within it, what a model prints, TorchScript's print among it, reaches stderr; `write_text`
    to "-" writes to what stdout was."""
    out = sys.stdout
    sys.stdout = cast(TextIO, _Aside(sys.stderr, out))
    try:
        yield
    finally:
        sys.stdout = out


class _Aside:
    def __init__(self, stream: TextIO, results: TextIO) -> None:
        self._stream = stream
        self.results = results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Checked:
    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._failure: FileError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if text == "":  # how click asks whether it writes text
            return 0
        if self._stream is None:
            raise FileError("cannot write to stdout: it is closed")
        try:
            return self._stream.write(text)
        except OSError as error:
            raise self._failed(error) from error

    def flush(self) -> None:
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except OSError as error:
            raise self._failed(error) from error

    def end(self) -> None:
        """The last flush. Raises FileError for any write that failed, whoever swallowed it."""
        try:
            self.flush()
        finally:
            if self._failure is not None and self._stream is not None:
                _to_nowhere(self._stream)  # or Python would try, and say so, once more as it ends
        if self._failure is not None:
            raise self._failure

    def _failed(self, error: OSError) -> FileError:
        self._failure = FileError(f"cannot write to stdout: {cause(error)}")
        return self._failure


class _Silent:
    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return 0 if self._stream is None else self._stream.write(text)
        except OSError:
            return 0

    def flush(self) -> None:
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except OSError:
            _to_nowhere(self._stream)


def _to_nowhere(stream: TextIO) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _fill_closed() -> None:
    """Where a standard stream is closed, the next file that is opened would get its number, and
    whatever a library prints."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
