"""Tensors by name: safetensors, checkpoints, and memory that lies on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sepify.errors import FileError
from sepify.faults import cause, reading
from sepify.storage.archives.saved import read_saved
from sepify.storage.reading import read_bytes
from sepify.storage.writing import torch_file, write_bytes


def save_weights(
    tensors: Mapping[str, torch.Tensor], path: Path | str, header: Mapping[str, str]
) -> None:
    """Save named tensors as safetensors, with `header` in its metadata."""
    from safetensors.torch import save

    metadata = {"format": "pt", **header}
    write_bytes(path, save(dict(tensors), metadata))


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """The named tensors of a .safetensors file. Raises FileError."""
    from safetensors.torch import load

    with reading(path, "a .safetensors file"):
        return dict(load(read_bytes(Path(path))))


def save_state(state: Mapping[str, Any], path: Path | str) -> None:
    """Save tensors, numbers, strings, and lists and dicts of them with torch.save, whole or not at
    all. Raises FileError."""
    with torch_file(path) as file:
        torch.save(dict(state), file)


def read_state(path: Path | str) -> dict[str, Any]:
    """What `save_state` saved, onto the CPU; nothing in the file can run. Raises FileError."""
    path = Path(path)
    with reading(path, "a checkpoint"):
        state = read_saved(path, read_bytes(path), "checkpoint")
    if not isinstance(state, dict):
        raise FileError(f"{path} holds a {type(state).__name__}, no checkpoint")
    return state


def on_disk(tensor: torch.Tensor) -> torch.Tensor:
    """A copy whose memory is a temporary file that has no name any more: the system writes it out
    when memory is short, and nothing is left behind. TMPDIR says where. Raises FileError if there
    is no room."""
    size = tensor.numel() * tensor.element_size()
    if size == 0:
        return tensor
    try:
        with tempfile.NamedTemporaryFile(prefix="sepify-") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error now, not a signal
            copy = torch.from_file(file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype)
    except OSError as error:
        where = tempfile.gettempdir()
        raise FileError(f"no room in {where}: {cause(error)}; set TMPDIR to a disk") from error
    return copy.reshape(tensor.shape).copy_(tensor)


def is_on_disk(tensor: torch.Tensor) -> bool:
    """Whether `on_disk` made it."""
    return tensor.device.type == "cpu" and tensor.untyped_storage().filename is not None
