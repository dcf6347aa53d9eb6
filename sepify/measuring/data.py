"""Labelled and unlabelled data, run through both networks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized

import torch
from torch import Tensor

from sepify.errors import InputError
from sepify.measuring.accuracy import Accuracy, accuracy, check_labels, correct
from sepify.measuring.fidelity import Fidelity, Outputs, fidelity
from sepify.measuring.outputs import Inputs, Network, answer, batch_size_for

Labelled = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
Progress = Callable[[str, int, int], None]

BEFORE, AFTER = "the original network", "the converted network"


def score(
    before: Network, after: Network, data: Labelled, progress: Progress | None = None
) -> tuple[Accuracy, Fidelity, int]:
    """Accuracy and fidelity on labelled images, in one pass, and the number of classes.

    `data` is (images, labels), of shapes (n, C, H, W) and (n,), or an iterable of such batches.
    Raises InputError where it is empty, ill-shaped or does not fit the networks.
    """
    answers: list[tuple[Outputs, Outputs]] = []
    right: list[tuple[Tensor, Tensor]] = []
    for images, labels in _batches(data, progress):
        old, new = answer(before, (images,), BEFORE), answer(after, (images,), AFTER)
        right.append((correct(old[0], labels, BEFORE), correct(new[0], labels, AFTER)))
        answers.append((old, new))
    if not answers:
        raise InputError("the labelled data is empty: accuracy needs at least one image")
    compared = accuracy(torch.cat([b for b, _ in right]), torch.cat([a for _, a in right]))
    return compared, fidelity(answers), answers[0][0][0].shape[1]


def agree(
    before: Network, after: Network, inputs: Inputs, progress: Progress | None = None
) -> Fidelity:
    """Fidelity on unlabelled inputs, each tensor (n, ...), run a batch at a time."""
    sizes = {len(tensor) for tensor in inputs}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError("the unlabelled data is empty, or its tensors differ in length")
    count, batch = sizes.pop(), batch_size_for(inputs[0][0])

    def pairs() -> Iterator[tuple[Outputs, Outputs]]:
        for start in range(0, count, batch):
            part = tuple(tensor[start : start + batch] for tensor in inputs)
            yield answer(before, part, BEFORE), answer(after, part, AFTER)
            if progress is not None:
                progress("comparing answers", min(start + batch, count), count)

    return fidelity(pairs())


def _batches(data: Labelled, progress: Progress | None) -> Iterator[tuple[Tensor, Tensor]]:
    pair = _as_pair(data)
    if pair is None:
        try:
            # without a length, progress is told a total of 0: unknown
            total = len(data) if isinstance(data, Sized) else 0
            items = iter(data)
        except TypeError as error:
            raise InputError(
                f"labelled data must be (images, labels) or an iterable of such pairs, not "
                f"{type(data).__name__}"
            ) from error
    else:
        images, labels = pair
        check_labels(len(images), labels)
        size = batch_size_for(images[0])
        items = iter(zip(torch.split(images, size), torch.split(labels, size), strict=True))
        total = -(-len(images) // size)
    for index, item in enumerate(items, 1):
        pair = _as_pair(item)
        if pair is None:
            raise InputError(
                "each batch of labelled data must be a pair of tensors: images, labels"
            )
        check_labels(len(pair[0]), pair[1])
        yield pair
        if progress is not None:
            progress("scoring labelled images", index, total)


def _as_pair(data: object) -> tuple[Tensor, Tensor] | None:
    """(images, labels) if `data` is a tuple or list of two tensors, else None."""
    if isinstance(data, tuple | list) and len(data) == 2:
        images, labels = data
        if isinstance(images, Tensor) and isinstance(labels, Tensor):
            return images, labels
    return None
