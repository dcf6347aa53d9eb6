"""Files of images, and of labels where there are any -> tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sepify.errors import InputError
from sepify.storage import has_array, read_array, read_arrays


def read_images(path: Path) -> Tensor:
    """Images (n, C, H, W) as float32 from .npy, or from .npz under the name 'images'."""
    array = read_array(path) if path.suffix == ".npy" else read_arrays(path, ["images"])["images"]
    if array.ndim < 2 or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {array.dtype} of shape {array.shape} is no batch of images")
    return torch.from_numpy(array).float()


def read_labelled(path: Path) -> tuple[Tensor, Tensor]:
    """Images (n, C, H, W) as float32 and labels (n,) as int64 from an .npz."""
    arrays = read_arrays(path, ["images", "labels"])
    return torch.from_numpy(arrays["images"]).float(), torch.from_numpy(arrays["labels"]).long()


def read_maybe_labelled(path: Path) -> Tensor | tuple[Tensor, Tensor]:
    """Images, and labels where an .npz has them."""
    if path.suffix != ".npy" and has_array(path, "labels"):
        return read_labelled(path)
    return read_images(path)
