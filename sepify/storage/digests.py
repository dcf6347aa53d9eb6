"""The digest of a file, or of all in a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from sepify.faults import reading
from sepify.storage.reading import open_file

Tell = Callable[[int, int], None]
MEGABYTE = 2**20


def file_digest(path: Path | str, tell: Tell | None = None) -> tuple[int, str]:
    """Bytes and SHA-256 of a file; of a folder, those of all files in it, names and contents, in
    the order of their names. `tell` hears of megabytes done and in all. Raises FileError."""
    path = Path(path)
    digest, size = hashlib.sha256(), 0
    with reading(path, "a file"):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        total = sum(file.stat().st_size for file in files)
    for file in files:
        if path.is_dir():
            name = file.relative_to(path).as_posix()
            digest.update(f"{name}\0".encode("utf-8", "surrogateescape"))
        with open_file(file) as stream, reading(file, "a file"):
            while block := stream.read(MEGABYTE):
                size += len(block)
                digest.update(block)
                if tell is not None:
                    tell(size // MEGABYTE, max(size, total) // MEGABYTE)
    return size, digest.hexdigest()
