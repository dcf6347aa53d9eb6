"""What can be wrong with a file, in words."""

from __future__ import annotations

import os
from pathlib import Path

from sepify.errors import FileError


def cause(error: OSError) -> str:
    """What the system says is wrong."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def require_file(path: Path) -> None:
    """Raise FileError for a folder, or for nothing there."""
    if path.is_dir():
        raise FileError(f"{path} is a folder, not a file")
    if not path.exists():
        raise FileError(f"no such file: {path}")


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises FileError."""
    require_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {cause(error)}") from error
