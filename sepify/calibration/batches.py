"""Calibration data in whatever form the user has it -> checked batches of inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sepify.errors import CalibrationWarning, InputError
from sepify.storage import users_items

Batch = tuple[Tensor, ...]
Calibration = Tensor | Iterable[Tensor | Sequence[Tensor]]

BATCH_SIZE = 64
BATCH_VALUES = 2**21  # of all inputs in a batch, about: 14 images of 3 x 224 x 224


def calibration_batches(
    data: Calibration, inputs: int = 1, limit: int | None = None
) -> tuple[Batch, ...]:
    """Batches of `inputs` tensors each, from a tensor (n, ...) or an iterable of batches.

    A loader that yields labels as well is fine: what follows the inputs is dropped. At most
    `limit` images are taken. Batches of large images are split, for what is computed from them
    should fit into the caches, let alone the memory. Raises InputError if there are none, if one is
    not a tensor, or if it holds NaN or infinity; warns (CalibrationWarning) of what is dropped.
    """
    source: Iterable[Tensor | Sequence[Tensor]] = data
    if isinstance(data, Tensor):
        if data.dim() < 2:
            raise InputError(f"calibration data of shape {tuple(data.shape)} is no batch of images")
        source = data.split(BATCH_SIZE)
    batches: list[Batch] = []
    left = float("inf") if limit is None else limit
    for number, batch in enumerate(users_items(source, "the calibration data"), 1):
        if left <= 0:
            break
        tensors = _checked(batch, inputs, number)
        if batches and [t.shape[1:2] for t in tensors] != [t.shape[1:2] for t in batches[0]]:
            shapes = [tuple(batches[0][0].shape), tuple(tensors[0].shape)]
            raise InputError(f"calibration batch {number} is {shapes[1]}, the first {shapes[0]}")
        if len(tensors[0]) == 0:
            continue
        if len(tensors[0]) > left:
            tensors = tuple(tensor[: int(left)] for tensor in tensors)
        batches += _split(tensors)
        left -= len(tensors[0])
    if not batches:
        raise InputError("the calibration data is empty")
    return tuple(batches)


def on_device_of(model: nn.Module | ExportedProgram, batch: Batch) -> Batch:
    """`batch` where the model's first parameter is: images may stay on the CPU, in a loader."""
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.is_meta:  # capture says that a meta model cannot be run
        return batch
    return tuple(tensor.to(parameter.device) for tensor in batch)


def image_count(batches: Sequence[Batch]) -> int:
    """Images in all batches."""
    return sum(len(batch[0]) for batch in batches)


def _split(batch: Batch) -> list[Batch]:
    images = len(batch[0])
    if any(tensor.dim() == 0 or len(tensor) != images for tensor in batch):
        return [batch]  # an input that is not one row an image
    values = sum(tensor.numel() for tensor in batch)
    size = max(1, min(BATCH_SIZE, BATCH_VALUES * images // max(1, values)))
    return list(zip(*(tensor.split(size) for tensor in batch), strict=True))


def _checked(batch: Tensor | Sequence[Tensor], inputs: int, number: int) -> Batch:
    if number == 1 and isinstance(batch, (tuple, list)) and len(batch) > inputs:
        dropped = f"{len(batch) - inputs} more value(s) in each batch (labels?) are not used"
        warnings.warn(f"calibration: {dropped}", CalibrationWarning, stacklevel=5)
    tensors = (batch,) if isinstance(batch, Tensor) else tuple(islice(batch, inputs))
    if len(tensors) < inputs or not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
        raise InputError(f"calibration batch {number} holds ({kinds}); {inputs} tensor(s) needed")
    for tensor in tensors:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"calibration batch {number} holds NaN or infinity")
    return tensors
