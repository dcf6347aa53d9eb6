"""Folders for what is not kept, and what programs of others say where there is no room for it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sepify.errors import FileError
from sepify.faults import cause

ROOM_ELSEWHERE = "make room there, or name another folder in the environment variable TMPDIR"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STOPPED = "file size limit exceeded"  # the signal's description


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder among the system's temporary files, removed at the end. Raises FileError where
    none can be made."""
    try:
        place = tempfile.TemporaryDirectory(prefix="sepify-", ignore_cleanup_errors=True)
    except OSError as error:
        where = tempfile.tempdir or "any folder for temporary files"
        raise FileError(f"cannot write to {where}: {cause(error)}; {ROOM_ELSEWHERE}") from error
    with place as name:
        yield Path(name)


def want_of_room(said: str) -> str | None:
    """Why a program could not write, from what it said in English: a full disk, a quota, a limit on
    the size of files. None if it says no such thing."""
    words = said.lower()
    for number in _FULL:
        if os.strerror(number).lower() in words:
            return os.strerror(number).lower()
    return os.strerror(errno.EFBIG).lower() if _STOPPED in words else None
