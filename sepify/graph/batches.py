"""Calibration data in whatever form the user has it -> checked batches of inputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from sepify.errors import CalibrationWarning, InputError
from sepify.faults import users_items

Batch = tuple[Tensor, ...]
Calibration = Tensor | Iterable[Tensor | Sequence[Tensor]]

MOST_IMAGES = 8_192  # of a loader, which may never end
MOST_BYTES = 2 * 2**30  # likewise
BATCH_SIZE = 64
BATCH_VALUES = 2**21  # of all inputs in a batch, about: 14 images of 3 x 224 x 224


def calibration_batches(
    data: Calibration,
    inputs: int = 1,
    limit: int | None = None,
    like: Sequence[Tensor] | None = None,
) -> tuple[Batch, ...]:
    """Batches of `inputs` tensors each, from a tensor (n, ...) or an iterable of batches.

    A loader that yields labels as well is fine: what follows the inputs is dropped. At most
    `limit` images are taken, and from a loader at most 8,192 or 2 GiB of them. Batches of large
    images are split, for what is computed from them should fit into the caches, let alone the
    memory. `like` are examples of the network's inputs: floating-point images of another type are
    converted to theirs.

    Raises InputError if there are no images, if they are no dense tensors or arrays, hold NaN or
    infinity, are whole numbers for a network that reads floating-point ones, or have other channels
    than `like` or than each other; warns (CalibrationWarning) of what is dropped.
    """
    batches: list[Batch] = []
    taken = held = 0
    streamed = not isinstance(data, Tensor | np.ndarray | list | tuple)
    source = users_items(_source(data), "the calibration data")
    for number, batch in enumerate(source, 1):
        tensors = _checked(batch, inputs, number, like)
        if batches and [t.shape[1:2] for t in tensors] != [t.shape[1:2] for t in batches[0]]:
            shapes = [tuple(batches[0][0].shape), tuple(tensors[0].shape)]
            raise InputError(f"calibration batch {number} is {shapes[1]}, the first {shapes[0]}")
        if limit is not None and len(tensors[0]) > limit - taken:
            tensors = tuple(tensor[: limit - taken] for tensor in tensors)
        if len(tensors[0]):
            batches += _split(tensors)
        taken += len(tensors[0])
        held += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if taken == limit:
            break
        if streamed and (max(taken, number) >= MOST_IMAGES or held >= MOST_BYTES):
            if taken and next(source, None) is not None:
                told = (
                    f"calibration: the first {taken:,} images of the loader are taken, which are "
                    f"{held / 2**20:,.0f} MiB; it has more, and a few hundred do"
                )
                warnings.warn(told, CalibrationWarning, stacklevel=3)
            break
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


def _source(data: object) -> Iterable[Any]:
    """What gives batches. Raises InputError for what holds none."""
    data = _as_tensor(data)
    if isinstance(data, Tensor):
        if data.dim() < 2:
            raise InputError(f"calibration data of shape {tuple(data.shape)} is no batch of images")
        _require_dense(data, "the calibration data")
        return torch.split(data, BATCH_SIZE)
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise InputError(
            "calibration data is a tensor (n, C, H, W) or a loader that gives batches of them; "
            f"{type(data).__name__} is neither"
        )
    return data


def _as_tensor(value: object) -> object:
    """An array of numbers as a tensor, anything else as it is."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        return value
    return torch.from_numpy(np.ascontiguousarray(value, value.dtype.newbyteorder("=")))


def _checked(batch: Any, inputs: int, number: int, like: Sequence[Tensor] | None) -> Batch:
    if number == 1 and isinstance(batch, (tuple, list)) and len(batch) > inputs:
        dropped = f"{len(batch) - inputs} more value(s) in each batch (labels?) are not used"
        warnings.warn(f"calibration: {dropped}", CalibrationWarning, stacklevel=4)
    where = f"calibration batch {number}"
    batch = _as_tensor(batch)
    values = (batch,) if isinstance(batch, Tensor) else tuple(islice(_items(batch), inputs))
    tensors = tuple(map(_as_tensor, values))
    if len(tensors) < inputs or not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
        raise InputError(f"{where} holds ({kinds}); {inputs} tensor(s) needed")
    given = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
    examples: Sequence[Tensor | None] = like or [None] * inputs
    if given[0].dim() == 0:
        raise InputError(f"{where} is a single number, no batch of images")
    return tuple(_fitting(t, e, where) for t, e in zip(given, examples, strict=True))


def _items(batch: object) -> Iterable[object]:
    return batch if isinstance(batch, Iterable) else (batch,)


def _fitting(tensor: Tensor, example: Tensor | None, where: str) -> Tensor:
    """The tensor by itself, of the example's type. Raises InputError where that says nothing."""
    _require_dense(tensor, where)
    tensor = tensor.detach()
    if tensor.is_inference():  # whose like nothing can be learned from
        tensor = tensor.clone()
    if example is not None:
        if example.is_floating_point() and not tensor.is_floating_point():
            raise InputError(f"{where} {whole_numbers(tensor, example.dtype)}")
        if tensor.is_floating_point() and example.is_floating_point():
            tensor = tensor.to(example.dtype)
        images = example.dim() > 2  # what has fewer axes may be of another length
        if images and (tensor.dim(), *tensor.shape[1:2]) != (example.dim(), *example.shape[1:2]):
            hint = channels_last_hint(tensor.shape, example.shape)
            raise InputError(
                f"{where} is {tuple(tensor.shape)}, the example input {tuple(example.shape)}{hint}"
            )
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise InputError(f"{where} holds NaN or infinity, or more than its type can hold")
    return tensor


def whole_numbers(images: Tensor, wanted: torch.dtype) -> str:
    """What is wrong with images of whole numbers for a network of floating-point ones, and what to
    do, in words."""
    given, needed = (str(d).removeprefix("torch.") for d in (images.dtype, wanted))
    return (
        f"holds {given}, but the network reads {needed}: prepare the images as it was trained, "
        f"as a rule (images.float() / 255 - mean) / std"
    )


def channels_last_hint(given: Sequence[int], wanted: Sequence[int]) -> str:
    """What to do where images (n, H, W, C) are given for (n, C, H, W); nothing for other shapes."""
    last = len(given) == len(wanted) == 4 and given[3] == wanted[1] != given[1]
    return "; the channels come second: images.permute(0, 3, 1, 2)" if last else ""


def _require_dense(tensor: Tensor, where: str) -> None:
    kinds = {
        "sparse": tensor.layout != torch.strided,
        "quantised": tensor.is_quantized,
        "complex": tensor.is_complex(),
        "on the meta device": tensor.is_meta,
    }
    for kind, found in kinds.items():
        if found:
            raise InputError(f"{where} is {kind}: give dense tensors of numbers")
