"""Calibration images that are kept for judging: nothing is fitted to them.

Which ones they are follows from their contents alone. Every image has a mark between 0 and 1, a
hash of its values, and those below a threshold are held out. So planning, converting, distilling
and reporting agree on them without a list, whatever the order of the images, and an image that is
there twice, or beside its mirror image (which has the same mark), is never on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sepify.calibration.moments import MEMORY
from sepify.errors import UsageError
from sepify.graph.batches import Batch
from sepify.plans.plan import Plan
from sepify.storage.tensors import on_disk

# One image in eight: solving on 7 in 8 is hardly worse, for its errors fall with the root of their
# number. A share needs no more than 128 (the 95 % interval of 90 % is then 84 to 94 %), and judging
# more would cost time that refining can use.
ONE_IN = 8
MOST = 128
# With fewer images than this, 8 at most could be held out: one of them would be 12 points and
# more, and a solver that has so few needs them.
FEWEST = 64
BITS = 53  # of a float: a threshold comes back from JSON as it was
COPIES = 1 / 8  # of the memory: copies of images beyond that go to temporary files


@dataclass(frozen=True)
class Split:
    """Batches to fit to, and those to judge on, each image of these once. `below` is the threshold
    of the marks, None where none is held out, for the reason in `why`; `asked` where that is what
    the user wants."""

    fit: tuple[Batch, ...]
    heldout: tuple[Batch, ...] = ()
    below: float | None = None
    why: str = ""
    asked: bool = False

    @property
    def images(self) -> int:
        """How many images are held out."""
        return sum(len(batch[0]) for batch in self.heldout)


def hold_out(
    batches: Sequence[Batch],
    holdout: float | None = None,
    below: float | None = None,
    memory: int = MEMORY,
) -> Split:
    """Hold part of the images out of `batches`, each a tuple of tensors (n, ...).

    holdout  share (below 1) or number of the images; 0: none; None: one in eight, at most 128, and
             none of fewer than 64
    below    the threshold that a plan was made with: no image above it is held out

    Where one input is not one row an image, whole batches are held out. Batches without an image
    that is held out stay as they are, others are copied; copies beyond an eighth of `memory` bytes
    go to temporary files. Raises UsageError for a `holdout` that makes no sense for the images.
    """
    _check(holdout)
    if holdout == 0:
        return Split(tuple(batches), why="holding images out was switched off", asked=True)
    marks = [image_marks(batch) for batch in batches]
    distinct = sorted({mark for each in marks for mark in each.tolist()})
    count = _count(len(distinct), holdout)
    if not count:
        return Split(
            tuple(batches),
            why=f"{len(distinct)} different images are too few to hold any out (from {FEWEST} on)",
        )
    limit = distinct[count] if below is None else min(distinct[count], below)
    if limit <= distinct[0]:
        return Split(tuple(batches), why="the plan held none of these images out")
    return _divided(batches, marks, limit, int(COPIES * memory))


def split_images(
    batches: Sequence[Batch] | None, holdout: float | None, plan: Plan | None, memory: int
) -> Split | None:
    """The batches to fit to and to judge on; None without any. What a plan was chosen by is not
    held out."""
    if batches is None:
        if holdout:
            raise UsageError("holdout is a part of the calibration images: give some")
        return None
    chosen_by_data = plan is not None and plan.outlook is not None
    if plan is not None and chosen_by_data and plan.heldout is None and holdout != 0:
        if holdout is not None:
            raise UsageError(
                "holdout: the plan does not say which images it was chosen by, so none can be held "
                "out; make it anew, or leave holdout out"
            )
        return Split(tuple(batches), why="the plan does not say which images it was chosen by")
    below = plan.heldout if plan is not None and chosen_by_data else None
    return hold_out(batches, holdout, below, memory)


def image_marks(batch: Batch) -> Tensor:
    """The mark of each image of a batch of tensors (n, ...), float64 (n,), at least 0 and below 1.
    The same for an image and its mirror image; for all of a batch where an input has not one row
    an image."""
    count = len(batch[0])
    rows = [_symmetric(tensor) for tensor in batch]
    if any(tensor.dim() == 0 or len(tensor) != count for tensor in batch):
        return torch.full((count,), _mark([row.reshape(-1) for row in rows]), dtype=torch.float64)
    flat = [row.reshape(count, -1) for row in rows]
    marks = [_mark([row[number] for row in flat]) for number in range(count)]
    return torch.tensor(marks, dtype=torch.float64)


def held_out(images: Tensor, below: float) -> Tensor:
    """Return the images (n, ...) whose mark is below the threshold, each once."""
    if len(images) == 0:
        return images
    seen: set[float] = set()
    return images[_new(image_marks((images,)), below, seen).to(images.device)]


def not_held_out(images: Tensor, below: float) -> Tensor:
    """Return (n,) bool, True for each of `images` (n, ...) that may be learned from."""
    if len(images) == 0:
        return torch.ones(0, dtype=torch.bool)
    return image_marks((images,)) >= below


def _divided(batches: Sequence[Batch], marks: Sequence[Tensor], below: float, room: int) -> Split:
    fit: list[Batch] = []
    heldout: list[Batch] = []
    seen: set[float] = set()
    for batch, mark in zip(batches, marks, strict=True):
        learned, judged = mark >= below, _new(mark, below, seen)
        if bool(learned.all()):
            fit.append(batch)
            continue
        # a batch of several of which one would be left: BatchNorm takes no variance of that
        if int(learned.sum()) > (len(mark) > 1):
            part = _rows(batch, learned)
            room -= sum(tensor.numel() * tensor.element_size() for tensor in part)
            spill = room < 0 and all(tensor.is_cpu for tensor in part)
            fit.append(tuple(on_disk(tensor) for tensor in part) if spill else part)
        if bool(judged.any()):
            heldout.append(_rows(batch, judged))
    if not fit:
        raise UsageError("holdout leaves no image to fit to: hold out fewer")
    return Split(tuple(fit), tuple(heldout), below)


def _rows(batch: Batch, chosen: Tensor) -> Batch:
    """The chosen rows of each tensor; all of a tensor that has not one row an image."""
    if bool(chosen.all()):
        return batch
    return tuple(tensor[chosen.to(tensor.device)] for tensor in batch)


def _new(marks: Tensor, below: float, seen: set[float]) -> Tensor:
    """(n,), True where a mark is below the threshold and stands there for the first time. Marks
    that are alike throughout a batch are one unit: all of it, or none."""
    values = marks.tolist()
    if len(set(values)) == 1:
        first = values[0] < below and values[0] not in seen
        seen.add(values[0])
        return torch.full((len(values),), first)
    chosen = []
    for value in values:
        chosen.append(value < below and value not in seen)
        seen.add(value)
    return torch.tensor(chosen, dtype=torch.bool)


def _symmetric(tensor: Tensor) -> Tensor:
    """What is hashed: float32, whatever the type; an image plus its mirror image, for a + b is
    b + a to the last bit."""
    values = tensor.detach().cpu()
    values = torch.view_as_real(values) if values.is_complex() else values
    values = values.float()
    return values + values.flip(3) if tensor.dim() == 4 else values


def _mark(parts: Sequence[Tensor]) -> float:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.contiguous().numpy().data)
    number = int.from_bytes(digest.digest(), "big") >> (64 - BITS)
    return float(number / 2**BITS)


def _check(holdout: float | None) -> None:
    if holdout is None:
        return
    whole = isinstance(holdout, int) and not isinstance(holdout, bool)
    if isinstance(holdout, bool) or not isinstance(holdout, int | float) or not holdout >= 0:
        raise UsageError(f"holdout {holdout!r} is neither a share of the images nor their number")
    if holdout >= 1 and not whole and not float(holdout).is_integer():
        raise UsageError(f"holdout {holdout!r} is neither a share below 1 nor a whole number")


def _count(images: int, holdout: float | None) -> int:
    """Return how many of this number of different images to hold out."""
    if holdout is None:
        return 0 if images < FEWEST else min(MOST, images // ONE_IN)
    count = max(1, round(holdout * images)) if holdout < 1 else int(holdout)
    if count >= images:
        raise UsageError(
            f"holdout {holdout:g} is too much of {images} different image(s): some are to be left "
            "to fit to"
        )
    return count
