"""Two paths change places in one step, which Python itself does not offer."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_HERE = -100  # AT_FDCWD: relative paths start where the process stands
_EXCHANGE = 2  # RENAME_EXCHANGE


def exchange(first: Path, second: Path) -> None:
    """Let two files or folders of one file system change places; nobody ever sees either missing.

    Raises OSError: ENOSYS off Linux and with an old C library, EINVAL on a file system that cannot.
    """
    call = None
    if sys.platform == "linux":
        call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    call.argtypes = ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    if call(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(second))
