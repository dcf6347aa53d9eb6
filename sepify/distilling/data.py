"""The images to learn from, in whatever form the user has them -> loaders, and what judges."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, TensorDataset

from sepify.errors import DistillationWarning, InputError, UsageError
from sepify.faults import users_code, users_items
from sepify.graph.running import batch_size_for

Batch = tuple[Tensor, ...]
Source = Tensor | tuple[Tensor, ...] | Dataset[Any] | Iterable[Any]
"""Images (n, C, H, W); a tuple of tensors of n rows each, labels last; a Dataset; or a loader."""

Loader = Any  # a DataLoader, or any iterable of batches with a length that starts anew each time
HELDOUT_SHARE = 8  # one image in eight judges, as in calibration
HELDOUT_MOST = 1_024


@dataclass(frozen=True)
class Material:
    """What one run learns from. `loader` yields batches of `inputs` tensors, and labels if there
    are any; `heldout` are batches of inputs alone that judge the student."""

    loader: Loader
    sampler: EpochSampler | None  # where the order of the images is ours
    heldout: tuple[Batch, ...]
    inputs: int

    def split(self, batch: Any) -> tuple[Batch, Tensor | None]:
        """(inputs, labels or None) of what the loader yields. Raises InputError."""
        tensors = (batch,) if isinstance(batch, Tensor) else tuple(batch)
        if not self.inputs <= len(tensors) <= self.inputs + 1 or not all(
            isinstance(tensor, Tensor) for tensor in tensors
        ):
            kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
            raise InputError(
                f"a batch holds ({kinds}); {self.inputs} input tensor(s) are needed, and labels "
                "may follow"
            )
        rest = tensors[self.inputs :]
        return tensors[: self.inputs], rest[0] if rest else None


class EpochSampler(Sampler[int]):
    """All numbers below `count`, in an order that `seed` and the epoch fix."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mixed(self.seed, self.epoch))
        return iter(torch.randperm(self.count, generator=generator).tolist())


def gather(data: Source, heldout: Source | None, inputs: int, batch: int, seed: int) -> Material:
    """Loaders for `data`. Tensors and datasets are shuffled anew each epoch, in batches of `batch`;
    loaders are taken as they are, batches and order.

    Without `heldout`, one image in eight of tensors and datasets, at most 1,024, is drawn to judge
    and not learnt from. From a loader the first batches judge and teach, and a DistillationWarning
    says so. Raises InputError where there are no images, UsageError for a loader without a length.
    """
    sampler: EpochSampler | None = None
    source = _as_dataset(data)
    if source is None:
        loader = _as_loader(data)
    else:
        taught, judged = _divided(source, seed) if heldout is None else (source, None)
        heldout = judged if heldout is None else heldout
        count = len(taught)  # type: ignore[arg-type]
        batch = min(batch, count)
        sampler = EpochSampler(count, seed)
        loader = DataLoader(taught, batch, sampler=sampler, drop_last=True)
    if heldout is None:
        warnings.warn(
            "the student is judged on images that it also learns from (the loader's first); give "
            "heldout=... to judge it on others",
            DistillationWarning,
            stacklevel=4,
        )
        heldout = loader
    material = Material(loader, sampler, (), inputs)
    judges = tuple(_judging(material, heldout))
    if not judges:
        raise InputError("there are no held-out images to judge the student on")
    if len(loader) == 0:
        raise InputError("there are no images to learn from")
    return Material(loader, sampler, judges, inputs)


def mixed(*numbers: int) -> int:
    """One seed from several numbers, far from those of their neighbours."""
    seed = 0
    for number in numbers:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return seed


def _as_dataset(data: Source) -> Dataset[Any] | None:
    """`data` as a dataset with a length, if its images can be picked one by one."""
    if isinstance(data, Tensor):
        data = (data,)
    if isinstance(data, tuple) and all(isinstance(tensor, Tensor) for tensor in data):
        lengths = {len(tensor) if tensor.dim() else 0 for tensor in data}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(f"images and labels must be as many, and some: {sorted(lengths)}")
        return TensorDataset(*data)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        if not isinstance(data, Sized) or len(data) == 0:
            raise InputError("the dataset is empty, or has no length")
        return data
    return None


def _divided(dataset: Dataset[Any], seed: int) -> tuple[Dataset[Any], Dataset[Any]]:
    """The images that teach and those that judge; a handful does both."""
    count = len(dataset)  # type: ignore[arg-type]
    judges = min(count // HELDOUT_SHARE, HELDOUT_MOST)
    if judges == 0:
        return dataset, dataset
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed(seed, -1)))
    taught, judged = order[judges:].tolist(), order[:judges].tolist()
    return Subset(dataset, taught), Subset(dataset, judged)


def _as_loader(data: Source) -> Loader:
    if not isinstance(data, Iterable):
        raise InputError(f"cannot learn from a {type(data).__name__}: give images or a loader")
    try:
        len(data)  # type: ignore[arg-type]  # a DataLoader over a stream has the method alone
    except TypeError as error:
        raise UsageError(
            f"the {type(data).__name__} has no length, so that the rate cannot be planned; give a "
            "loader with a length"
        ) from error
    assert isinstance(data, Sized)
    return data


def _judging(material: Material, heldout: Source) -> Iterator[Batch]:
    """Batches of inputs, at most HELDOUT_MOST images."""
    dataset = _as_dataset(heldout)
    if dataset is None:
        loader = _as_loader(heldout)
    else:
        with users_code("the held-out data"):
            first = dataset[0]
        image = first if isinstance(first, Tensor) else first[0]
        loader = DataLoader(dataset, batch_size_for(torch.as_tensor(image)))
    left = HELDOUT_MOST
    for found in users_items(loader, "the held-out data"):
        if left <= 0:
            return
        inputs, _ = material.split(found)
        yield tuple(tensor[:left] for tensor in inputs)
        left -= len(inputs[0])
