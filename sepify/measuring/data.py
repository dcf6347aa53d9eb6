"""Labelled and unlabelled data, run through both networks at once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sepify.errors import DataWarning, InputError
from sepify.faults import users_items
from sepify.graph.modes import evaluating
from sepify.graph.running import AFTER, BEFORE, Inputs, Network, answer, batch_size_for
from sepify.judging.changes import Changes, ChangeTally
from sepify.judging.fidelity import Fidelity, Outputs, fidelity
from sepify.judging.metrics import Metric, MetricResult, metric_result, metric_values
from sepify.judging.statistics import (
    Accuracy,
    accuracy,
    check_labels,
    correct,
    require_one_each,
    wilson,
)
from sepify.measuring.notes import chance_note
from sepify.process.progress import Progress

Labelled = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]

TOP5_CLASSES = 6  # below that, five guesses are all there are


@dataclass(frozen=True)
class Scores:
    """What one pass over labelled images measures. `accuracy`, `top5` and `changes` are None for a
    task with the user's own metric, `top5` also below TOP5_CLASSES classes; `fidelity` where there
    was nothing to measure it on."""

    fidelity: Fidelity | None
    accuracy: Accuracy | None = None
    top5: Accuracy | None = None
    changes: Changes | None = None
    metric: MetricResult | None = None
    classes: int = 0


def score(
    before: Network,
    after: Network,
    data: Labelled,
    progress: Progress | None = None,
    names: tuple[str, ...] = (),
) -> Scores:
    """Accuracy, fidelity and changed answers on labelled images, in one pass.

    `data` is (images, labels), of shapes (n, C, H, W) and (n,), or an iterable of such batches;
    `names` are those of the classes. Raises InputError where the data is empty, ill-shaped or does
    not fit the networks.
    """
    tally = ChangeTally(names)
    right: dict[int, list[tuple[Tensor, Tensor]]] = {1: [], 5: []}
    classes = 0

    def pairs() -> Iterator[tuple[Outputs, Outputs]]:
        nonlocal classes
        for images, labels in _batches(data, progress):
            check_labels(len(images), labels)
            old, new = answer(before, (images,), BEFORE), answer(after, (images,), AFTER)
            right[1].append((correct(old[0], labels, BEFORE), correct(new[0], labels, AFTER)))
            classes = old[0].shape[1]
            if classes >= TOP5_CLASSES:
                five = correct(old[0], labels, BEFORE, 5), correct(new[0], labels, AFTER, 5)
                right[5].append(five)
            tally.add(images, labels, old[0], new[0])
            yield old, new

    agreed = fidelity(_some(pairs(), "accuracy"))
    return Scores(
        agreed,
        _paired(right[1]),
        _paired(right[5]) if right[5] else None,
        tally.result(),
        classes=classes,
    )


def warn_if_guessing(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Warn (DataWarning) where the original's top-1 on a sample of labelled images is near chance:
    then they are most likely prepared in another way than it was trained with, and nothing that is
    measured on them means anything. Raises InputError where they do not fit the network."""
    batches = list(_batches((images, labels), None))
    with evaluating(model):
        right, classes = [], 0
        for part, truth in batches:
            check_labels(len(part), truth)
            scores = answer(model, (part,), BEFORE)[0]
            right.append(correct(scores, truth, BEFORE))
            classes = scores.shape[1]
    hits = torch.cat(right)
    for note in chance_note(wilson(int(hits.sum()), len(hits)), classes):
        warnings.warn(note, DataWarning, stacklevel=2)


def score_metric(
    before: Network,
    after: Network,
    data: Labelled,
    metric: Metric,
    name: str,
    progress: Progress | None = None,
) -> Scores:
    """Fidelity and the user's metric on (images, targets), targets of any shape (n, ...)."""
    values: list[tuple[Tensor, Tensor]] = []

    def pairs() -> Iterator[tuple[Outputs, Outputs]]:
        for images, targets in _batches(data, progress):
            old, new = answer(before, (images,), BEFORE), answer(after, (images,), AFTER)
            given = metric_values(metric, _single(old), targets, name)
            values.append((given, metric_values(metric, _single(new), targets, name)))
            yield old, new

    agreed = fidelity(_some(pairs(), "a metric"))
    result = metric_result(
        name, torch.cat([b for b, _ in values]), torch.cat([a for _, a in values])
    )
    return Scores(agreed, metric=result)


def _single(outputs: Outputs) -> Any:
    """The tensor of a network with one output, else all of them."""
    return outputs[0] if len(outputs) == 1 else outputs


def _paired(right: list[tuple[Tensor, Tensor]]) -> Accuracy:
    return accuracy(torch.cat([b for b, _ in right]), torch.cat([a for _, a in right]))


def _some(pairs: Iterator[tuple[Outputs, Outputs]], what: str) -> Iterator[tuple[Outputs, Outputs]]:
    """Yield the same pairs; raises InputError where there are none."""
    first = next(pairs, None)
    if first is None:
        raise InputError(f"the labelled data is empty: {what} needs at least one image")
    yield first
    yield from pairs


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
        if not isinstance(data, Iterable) and not hasattr(data, "__getitem__"):
            raise InputError(
                f"labelled data must be (images, labels) or an iterable of such pairs, not "
                f"{type(data).__name__}"
            )
        items = users_items(data, "the labelled data")
        total = _length(data) if isinstance(data, Sized) else 0
    else:
        images, labels = pair
        require_one_each(len(images), labels)
        size = batch_size_for(images[0])
        items = iter(zip(torch.split(images, size), torch.split(labels, size), strict=True))
        total = -(-len(images) // size)
    for index, item in enumerate(items, 1):
        pair = _as_pair(item)
        if pair is None:
            raise InputError(
                "each batch of labelled data must be a pair of tensors: images, labels"
            )
        require_one_each(len(pair[0]), pair[1])
        yield pair
        if progress is not None:
            progress("scoring labelled images", index, total)


def _length(data: Sized) -> int:
    """0, unknown to progress, where there is none: a DataLoader over a stream has the method."""
    try:
        return len(data)
    except TypeError:
        return 0


def _as_pair(data: object) -> tuple[Tensor, Tensor] | None:
    """(images, labels) if `data` is a tuple or list of two tensors, else None."""
    if isinstance(data, tuple | list) and len(data) == 2:
        images, labels = data
        if isinstance(images, Tensor) and isinstance(labels, Tensor):
            return images, labels
    return None
