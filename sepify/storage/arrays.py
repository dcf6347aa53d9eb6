"""NumPy's files: arrays of numbers and of text, of any byte order and width."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from sepify.errors import FileError
from sepify.faults import reading
from sepify.process.memory import require_memory
from sepify.storage.atomic import atomic_path
from sepify.storage.reading import open_file

_BLOCK = 2**20
_ADVICE = "save it again with numpy.save or numpy.savez"
_NUMBERS, _TEXT = "biuf", "US"
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def save_array(path: Path | str, array: np.ndarray) -> None:
    """What numpy.save writes, whole or not at all. Raises FileError: NumPy's own writer does not
    say what is wrong with a disk."""
    values = np.ascontiguousarray(array)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(values)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(values.data)


def read_array(path: Path | str) -> np.ndarray:
    """The array of an .npy file, in this machine's byte order; pickled objects are refused. Raises
    FileError, and InputError where there is not enough memory for it."""
    path = Path(path)
    with open_file(path) as file, reading(path, "an .npy file", _ADVICE):
        return _array(file, path.stat().st_size, str(path))


def read_arrays(
    path: Path | str, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file, and those of the optional ones that it has, as `read_array`
    reads them. Raises FileError, InputError."""
    path = Path(path)
    with (
        open_file(path) as file,
        reading(path, "an .npz file", _ADVICE),
        zipfile.ZipFile(file) as archive,
    ):
        there = [info.filename.removesuffix(".npy") for info in archive.infolist()]
        missing = [name for name in names if name not in there]
        if missing:
            known = ", ".join(there[:20]) or "none"
            raise FileError(f"{path} has no array {missing[0]!r}; it has {known}")
        found = {}
        for name in [*names, *(name for name in optional if name in there)]:
            if there.count(name) > 1:
                raise FileError(f"{path} has the array {name!r} more than once")
            info = archive.infolist()[there.index(name)]
            with archive.open(info) as entry:
                found[name] = _array(entry, info.file_size, f"'{name}' of {path}")
        return found


def _array(file: IO[bytes], size: int, where: str) -> np.ndarray:
    """The array that begins where `file` stands, of at most `size` bytes with its header. What the
    header promises is compared with that before anything is allocated."""
    shape, fortran, dtype = _header(file)
    if dtype.kind not in _NUMBERS + _TEXT or dtype.itemsize == 0:
        raise ValueError(f"it holds {dtype}, neither numbers nor text")
    if not all(type(extent) is int and extent >= 0 for extent in shape):
        raise ValueError(f"its shape is {shape}")
    needed = prod(shape) * dtype.itemsize
    if needed > size:
        raise ValueError(
            f"{where} should have {needed:,} bytes by its header, and has at most {size:,}"
        )
    require_memory(needed, where)
    array = np.empty(prod(shape), dtype)
    flat, done = array.view(np.uint8), 0
    while done < needed:
        block = file.read(min(_BLOCK, needed - done))
        if not block:
            raise ValueError(f"{where} is cut short")
        flat[done : done + len(block)] = np.frombuffer(block, np.uint8)
        done += len(block)
    if array.dtype.kind in _NUMBERS:
        array = _native(array)
    return array.reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"its version is {version}")
    with warnings.catch_warnings():  # of what Python thinks of a damaged header
        warnings.simplefilter("ignore")
        return _HEADERS[version](file)


def _native(array: np.ndarray) -> np.ndarray:
    """In this machine's byte order, and of a width that torch has."""
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    elif dtype.kind == "u" and dtype.itemsize > 1:
        fits = not array.size or array.max() < 2**63
        dtype = np.dtype(np.int64 if fits else np.float64)
    return array.astype(dtype, copy=False)
