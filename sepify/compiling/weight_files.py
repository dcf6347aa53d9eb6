"""The large weights of a compiled network: one NumPy file each, mapped into memory to be read.

What is mapped is not copied, and processes that run the same network share it. NumPy aligns the
values in its files to 64 bytes, which is what TVM's kernels expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sepify.errors import FileError
from sepify.faults import reading
from sepify.storage import file_digest
from sepify.storage.arrays import save_array


def write_weights(folder: Path, weights: Sequence[Tensor]) -> list[str]:
    """Write the files; their SHA-256 in order."""
    for index, weight in enumerate(weights):
        save_array(folder / _name(index), weight.numpy())
    return _digests(folder, len(weights))


def map_weights(folder: Path, digests: Sequence[str]) -> list[Tensor]:
    """The tensors that `write_weights` wrote. Raises FileError if one is missing or damaged."""
    for index, digest in enumerate(_digests(folder, len(digests))):
        if digest != digests[index]:
            raise FileError(
                f"{folder / _name(index)} is damaged: it is not the file that was saved"
            )
    return [_map(folder / _name(index)) for index in range(len(digests))]


def _name(index: int) -> str:
    return f"weight{index}.npy"


def _digests(folder: Path, count: int) -> list[str]:
    """Several at once: hashing takes longer than anything else about loading."""
    paths = [folder / _name(index) for index in range(count)]
    with ThreadPoolExecutor() as pool:
        return [digest for _, digest in pool.map(file_digest, paths)]


def _map(path: Path) -> Tensor:
    with reading(path, "a weight of a compiled network", "compile it again"):
        # copy on write, as torch wants memory that could be written
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
