"""A budget in points of accuracy: the cheapest plan on the frontier that keeps the promise.

Searched by bisection on one half of the data, and then held against the other half, which nothing
was chosen by: a plan that fails there gives way to the next dearer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sepify.calibration.batches import Batch, image_count, on_device_of
from sepify.errors import InputError, UsageError
from sepify.measuring.accuracy import check_labels, paired_difference, wilson
from sepify.planning.columns import column_of
from sepify.planning.frontier import frontier_choices
from sepify.planning.knapsack import Choice
from sepify.planning.measurements import Measurements
from sepify.planning.output_loss import Outputs
from sepify.planning.rounds import chosen_forms
from sepify.planning.workbench import Workbench, split_images
from sepify.progress import Progress

POINTS = 32  # on the frontier
BATCH = 64
FEWEST = 64  # images to check on: with fewer, one image is more than a point


@dataclass(frozen=True)
class Kept:
    """The choice, the drop in points on the images that verified it, and how in words."""

    choice: Choice
    drop: float
    words: str


@dataclass(frozen=True)
class Verdict:
    """How many images both networks get right, only the original, only the converted one, neither;
    by the labels, or by the original's own answers where there are none."""

    both: int
    lost: int
    gained: int
    neither: int
    labelled: bool

    @property
    def images(self) -> int:
        """All of them."""
        return self.both + self.lost + self.gained + self.neither

    @property
    def drop(self) -> float:
        """In points."""
        return 100 * (self.lost - self.gained) / self.images

    @property
    def words(self) -> str:
        """With a 95 % interval."""
        where = f"{self.images} {'labelled ' if self.labelled else ''}images"
        where += " that nothing was chosen by"
        if not self.labelled:
            agreed = wilson(self.both, self.images)
            interval = f"(95 %: {agreed.low:.2%} to {agreed.high:.2%})"
            return f"agrees with the original on {agreed.value:.2%} of {where} {interval}"
        change = paired_difference(self.both, self.lost, self.gained, self.neither)
        low, middle, high = (100 * value for value in (change.low, change.value, change.high))
        return f"top-1 changes by {middle:+.2f} points on {where} (95 %: {low:+.2f} to {high:+.2f})"


@dataclass(frozen=True)
class Jury:
    """Images with what the original answers to them, and their labels if there are any."""

    batches: tuple[Batch, ...]
    wanted: tuple[Outputs, ...]
    labels: Tensor | None

    def judge(self, outputs: Sequence[Outputs]) -> Verdict:
        """The given outputs against the original's."""
        old = torch.cat([y[0].argmax(1) for y in self.wanted])
        new = torch.cat([y[0].argmax(1) for y in outputs])
        labels = old if self.labels is None else self.labels.to(old.device)
        before, after = old == labels, new == labels
        both, lost = int((before & after).sum()), int((before & ~after).sum())
        gained = int((~before & after).sum())
        neither = len(labels) - both - lost - gained
        return Verdict(both, lost, gained, neither, self.labels is not None)


def keep_promise(
    bench: Workbench,
    measurements: Measurements,
    points: float,
    juries: tuple[Jury, Jury],
    progress: Progress,
) -> Kept:
    """The cheapest choice that loses at most `points` on both juries: searched on the first,
    verified on the second. The original network, which loses nothing, is the last resort."""
    choices = frontier_choices(measurements, POINTS, column_of(measurements, "macs"))
    verdicts: dict[int, tuple[Verdict, Verdict]] = {}

    def verdict(index: int) -> tuple[Verdict, Verdict]:
        if index not in verdicts:
            progress("holding plans against the promise", len(verdicts), 0)
            forms = chosen_forms(measurements.layers, choices[index].picks)
            factors = bench.factors(forms, progress)
            first, second = (jury.judge(bench.answers(factors, jury.batches)) for jury in juries)
            verdicts[index] = first, second
        return verdicts[index]

    low, high = 0, len(choices) - 1  # the dearest is the original network
    while low < high:
        middle = (low + high) // 2
        if verdict(middle)[0].drop <= points:
            high = middle
        else:
            low = middle + 1
    while low < len(choices) - 1 and max(each.drop for each in verdict(low)) > points:
        low += 1
    verified = verdict(low)[1]
    return Kept(choices[low], verified.drop, verified.words)


def juries_of(
    bench: Workbench, spare: Sequence[Batch], labelled: tuple[Tensor, Tensor] | None
) -> tuple[Jury, Jury]:
    """Two halves of the labelled data, or of the images that planning did not look at.

    Raises UsageError where the network is no classifier, InputError for too few images or labels
    that do not fit.
    """
    if bench.loss.kind != "kl":
        raise UsageError(
            "accuracy_drop needs a classifier, one row of class scores an image; give a budget in "
            "macs, params, size_mb or latency instead"
        )
    labels = None
    if labelled is not None:
        images, labels = labelled
        check_labels(len(images), labels)
        spare = [on_device_of(bench.network, (part,)) for part in images.split(BATCH)]
    if image_count(spare) < 2 * FEWEST:
        told = "labelled images" if labelled is not None else "images that planning does not use"
        raise InputError(
            f"accuracy_drop is searched and verified on {told}: {image_count(spare)} are too few, "
            f"at least {2 * FEWEST} are needed"
        )
    parts = split_images(spare, 2)
    first, second = (tuple(bench.answers({}, part)) for part in parts)
    if labels is None:
        return Jury(parts[0], first, None), Jury(parts[1], second, None)
    marks = split_images([(part,) for part in labels.split(BATCH)], 2)
    given = [torch.cat([batch[0] for batch in part]) for part in marks]
    return Jury(parts[0], first, given[0]), Jury(parts[1], second, given[1])
