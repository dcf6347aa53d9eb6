"""Text, JSON, arrays and pictures; the digest of a file."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sepify.errors import FileError, first_line
from sepify.storage.faults import cause, read_bytes, require_file

if TYPE_CHECKING:
    from PIL.Image import Image

Tell = Callable[[int, int], None]
MEGABYTE = 2**20


def read_lines(path: Path | str) -> list[str]:
    """The lines of a file that is only appended to; none if it does not exist. Bytes that are not
    UTF-8 are replaced: they belong to a line that was cut short. Raises FileError."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FileError(f"cannot read {path}: {cause(error)}") from error


def read_text(path: Path | str) -> str:
    """Read UTF-8 text; "-" is stdin. Raises FileError naming the file."""
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return read_bytes(Path(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not a JSON file: it is not UTF-8 text") from error


def read_json(path: Path | str) -> Any:
    """Read JSON. Raises FileError naming the file, the line and the column of a fault."""
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path | str) -> Any:
    """The JSON that `text`, read from `path`, holds. Raises FileError as `read_json` does."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise FileError(f"{path} is not valid JSON: {error.msg} at {where}") from error


def read_arrays(
    path: Path | str, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file, and those of the optional ones that it has; pickled objects
    are refused. Raises FileError."""
    path = Path(path)
    require_file(path)
    try:
        with zipfile.ZipFile(path):  # np.load would take other formats as well
            pass
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive]
            if missing:
                raise FileError(f"{path} has no array {missing[0]!r}; it has {archive.files}")
            there = [*names, *(name for name in optional if name in archive)]
            return {name: archive[name] for name in there}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} is not a readable .npz file: {first_line(error)}") from error


def read_array(path: Path | str) -> np.ndarray:
    """The array of an .npy file; pickled objects are refused. Raises FileError."""
    path = Path(path)
    require_file(path)
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{path} is not a readable .npy file: {first_line(error)}") from error


def read_picture(path: Path | str) -> Image:
    """A picture, decoded. Raises FileError naming the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture = Image.open(path)
        picture.load()
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise FileError(f"{path} is not a readable picture: {first_line(error)}") from error
    return picture


def file_digest(path: Path | str, tell: Tell | None = None) -> tuple[int, str]:
    """Bytes and SHA-256 of a file; of a folder, those of all files in it, names and contents, in
    the order of their names. `tell` hears of megabytes done and in all. Raises FileError."""
    path = Path(path)
    digest, size = hashlib.sha256(), 0
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        total = sum(file.stat().st_size for file in files)
        for file in files:
            if path.is_dir():
                digest.update(f"{file.relative_to(path).as_posix()}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(MEGABYTE):
                    size += len(block)
                    digest.update(block)
                    if tell is not None:
                        tell(size // MEGABYTE, max(size, total) // MEGABYTE)
    except OSError as error:
        raise FileError(f"cannot read {error.filename or path}: {cause(error)}") from error
    return size, digest.hexdigest()
