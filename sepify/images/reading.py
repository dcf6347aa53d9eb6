"""Images and labels as tensors: all of them, a few hundred of them, or batch by batch."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepify.errors import InputError, UsageError
from sepify.faults import users_items
from sepify.graph.batches import channels_last_hint, whole_numbers
from sepify.images.preparation import Preparation, for_shape
from sepify.images.sources import Source, open_source
from sepify.process.memory import require_memory

CALIBRATION_IMAGES = 1_024  # of a folder, evenly spread; what is held in memory already stays whole
BATCH = 64


@dataclass(frozen=True)
class LabelledImages:
    """Batches of (images, labels), as often as they are asked for; never all in memory."""

    source: Source
    preparation: Preparation
    channels: int

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes by number; empty where the source has none."""
        return self.source.names

    def __len__(self) -> int:
        return -(-self.source.count // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, self.source.count, BATCH):
            yield self.take(range(start, min(start + BATCH, self.source.count)))

    def take(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The images of these numbers and their labels."""
        assert self.source.labels is not None
        return _tensors(self.source, numbers, self.preparation, self.channels), self.source.labels(
            numbers
        )

    def sample(self, most: int) -> tuple[Tensor, Tensor]:
        """At most so many, evenly spread: a folder is sorted by class."""
        return self.take(_spread(self.source.count, most))


def open_labelled(
    spec: str | Path, preparation: Preparation | None = None, shape: Sequence[int] | None = None
) -> LabelledImages | Iterable[Any]:
    """Labelled images batch by batch, or a user's own batches as they are.

    `preparation` is for pictures; without it they are resized to `shape` (of the network's input,
    N, C, H, W), values 0 to 1. Raises InputError for images without labels, and what `open_source`
    raises.
    """
    source = open_source(spec)
    if not isinstance(source, Source):
        return source
    if source.labels is None:
        raise InputError(
            f"{source.where} has no labels: give one folder a class, or 'labels' in an .npz"
        )
    if source.count == 0:
        raise InputError(f"{source.where}: the labelled data is empty")
    return LabelledImages(source, *_prepared(source, preparation, shape))


def read_labelled(
    spec: str | Path, preparation: Preparation | None = None, shape: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """All labelled images in memory: float32 (n, C, H, W), and labels (n,) as int64."""
    return in_memory(open_labelled(spec, preparation, shape))


def in_memory(labelled: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """All batches together. Raises InputError where there are none."""
    batches = list(labelled)
    if not batches:
        raise InputError("the labelled data is empty")
    return torch.cat([images for images, _ in batches]), torch.cat([y for _, y in batches])


def read_images(
    spec: str | Path,
    preparation: Preparation | None = None,
    shape: Sequence[int] | None = None,
    most: int = CALIBRATION_IMAGES,
) -> Tensor:
    """Images without their labels, float32 (n, C, H, W): of pictures and batches at most `most`,
    of pictures evenly spread; of arrays all. Raises what `open_source` raises."""
    source = open_source(spec)
    if not isinstance(source, Source):
        return _from_batches(source, str(spec), most)
    preparation, channels = _prepared(source, preparation, shape)
    numbers = range(source.count) if source.arrays else _spread(source.count, most)
    return _tensors(source, numbers, preparation, channels)


def read_maybe_labelled(
    spec: str | Path, preparation: Preparation | None = None, shape: Sequence[int] | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """All images in memory, with their labels where they have any."""
    source = open_source(spec)
    if not isinstance(source, Source):
        batches = list(users_items(source, f"{spec}()"))
        if batches and isinstance(batches[0], tuple | list):
            return in_memory(batches)
        return _from_batches(batches, str(spec), most=sys.maxsize)
    prepared, channels = _prepared(source, preparation, shape)
    images = _tensors(source, range(source.count), prepared, channels)
    return images if source.labels is None else (images, source.labels(range(source.count)))


def _from_batches(batches: Iterable[Any], where: str, most: int) -> Tensor:
    taken: list[Tensor] = []
    for batch in islice(users_items(batches, f"{where}()"), most):
        images = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(images, Tensor):
            raise InputError(f"{where} gave batches of {type(images).__name__}, not of tensors")
        if not images.is_floating_point():
            raise InputError(f"{where} {whole_numbers(images, torch.float32)}")
        taken.append(images)
        if sum(map(len, taken)) >= most:
            break
    if not taken:
        raise InputError(f"{where} gave no images")
    return torch.cat(taken)[:most].float()


def _prepared(
    source: Source, preparation: Preparation | None, shape: Sequence[int] | None
) -> tuple[Preparation, int]:
    """How this source's images are prepared, and how many channels they get."""
    if source.arrays is not None:
        if preparation is not None:
            raise UsageError(
                f"{source.where} holds numbers as the network takes them: --preprocess is for "
                "pictures"
            )
        _require_fitting(source, shape)
        return Preparation(), 0
    if shape is not None and len(shape) != 4:
        raise UsageError(f"pictures do not fit an input of shape {tuple(shape)}: give arrays")
    if preparation is None:
        if shape is None:
            raise UsageError(f"{source.where}: say how pictures are prepared, with --preprocess")
        preparation = for_shape(shape)
    return preparation, shape[1] if shape is not None else 3


def _require_fitting(source: Source, shape: Sequence[int] | None) -> None:
    """Raise InputError for arrays of whole numbers, which are pixels that nobody has prepared, and
    for those whose channels come last where the network's come second."""
    if source.given is None:
        return
    if not source.given.is_floating_point():
        raise InputError(f"{source.where} {whole_numbers(source.given, torch.float32)}")
    if shape is not None:
        hint = channels_last_hint(source.given.shape, shape)
        if hint:
            given = ", ".join(map(str, source.given.shape[1:]))
            raise InputError(f"{source.where} holds images of ({given}){hint}")


def _tensors(
    source: Source, numbers: Sequence[int], preparation: Preparation, channels: int
) -> Tensor:
    if source.arrays is not None:
        return source.arrays(numbers)
    assert source.picture is not None
    made: list[Tensor] = []
    for number in numbers:
        picture = source.picture(number)
        made.append(preparation.of_picture(picture, channels))
        if len(made) == 1:
            needed = len(numbers) * made[0].nbytes
            require_memory(
                needed, f"{source.where}: {len(numbers):,} images of {tuple(made[0].shape)}"
            )
    if not made:
        raise InputError(f"{source.where} holds no images")
    sizes = sorted({tuple(image.shape) for image in made})
    if len(sizes) > 1:
        raise UsageError(
            f"{source.where} has pictures of different sizes ({sizes[0]}, {sizes[-1]}): give "
            "--preprocess a size or a crop"
        )
    return torch.stack(made)


def _spread(count: int, most: int) -> Sequence[int]:
    """At most `most` numbers below `count`, evenly spread, each once."""
    if count <= most:
        return range(count)
    return [(2 * step + 1) * count // (2 * most) for step in range(most)]
