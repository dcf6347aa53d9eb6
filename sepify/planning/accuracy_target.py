"""A budget in what may be lost, points of accuracy or agreement with the original: the cheapest
plan on the frontier that keeps it.

Searched by bisection on one half of the data, and then held against images that nothing was chosen
by. A plan that fails there gives way to a dearer one, which is chosen on all images looked at so
far and held against others again: the images that have rejected a plan have had a part in choosing
the next, so they cannot verify it. A second half of the data allows for three tries at most, and
the interval that is told allows for as many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from sepify.calibration.output_loss import OutputLoss, Outputs
from sepify.calibration.refine import Refinement
from sepify.errors import InputError, UsageError
from sepify.graph.batches import Batch, image_count, on_device_of
from sepify.judging.statistics import check_labels, paired_difference, wilson
from sepify.planning.candidates import Measurements
from sepify.planning.frontier import frontier_choices
from sepify.planning.knapsack import Choice, cost_table
from sepify.planning.search import chosen_forms
from sepify.planning.trials import Trials, split_images
from sepify.plans.budget import Quantity
from sepify.process.progress import Progress

POINTS = 32  # on the frontier
BATCH = 64
FEWEST = 64  # images to check on: with fewer, one image is more than a point
TRIES = 3
LEVEL = 0.95  # of the intervals of all tries together


@dataclass(frozen=True)
class Met:
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
    def brief(self) -> str:
        """In a few words."""
        if self.labelled:
            return f"top-1 changes by {-self.drop:+.2f} points"
        return f"agreement is {self.both / self.images:.2%}"

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(
            self.both + other.both,
            self.lost + other.lost,
            self.gained + other.gained,
            self.neither + other.neither,
            self.labelled,
        )

    def words(self, tried: int, tries: int) -> str:
        """In a sentence, as the verdict of the `tried`-th of at most `tries` tries. Its interval is
        such that those of all tries hold the true figures with 95 %: whatever made the last one
        the last (Bonferroni)."""
        z = NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * tries))
        told = f"95 %, of {tries} tries at most" if tries > 1 else "95 %"
        if tried > 1:
            told += f"; try {tried}, on images that had no part in rejecting a cheaper plan"
        where = f"{self.images} {'labelled ' if self.labelled else ''}images"
        where += " that nothing was chosen by"
        if not self.labelled:
            agreed = wilson(self.both, self.images, z)
            interval = f"({told}: {agreed.low:.2%} to {agreed.high:.2%})"
            return f"agrees with the original on {agreed.value:.2%} of {where} {interval}"
        change = paired_difference(self.both, self.lost, self.gained, self.neither, z)
        low, middle, high = (100 * value for value in (change.low, change.value, change.high))
        return (
            f"top-1 changes by {middle:+.2f} points on {where} ({told}: {low:+.2f} to {high:+.2f})"
        )


@dataclass(frozen=True)
class ErrorVerdict:
    """For outputs that are no classes: their squared error over their variance, on so many
    images."""

    images: int
    error: float

    @property
    def drop(self) -> float:
        """In points: an error of 1 % counts as two."""
        return 200 * self.error

    @property
    def brief(self) -> str:
        """In a few words."""
        return f"the outputs' squared error is {self.error:.2%} of their variance"

    def __add__(self, other: ErrorVerdict) -> ErrorVerdict:
        images = self.images + other.images
        error = (self.images * self.error + other.images * other.error) / images
        return ErrorVerdict(images, error)

    def words(self, tried: int, tries: int) -> str:
        """In a sentence."""
        told = f" (try {tried} of {tries} at most)" if tries > 1 else ""
        return f"{self.brief} on {self.images} images that nothing was chosen by{told}"


AnyVerdict = Verdict | ErrorVerdict


@dataclass(frozen=True)
class CheckImages:
    """Images with what the original answers to them, and their labels if there are any."""

    batches: tuple[Batch, ...]
    wanted: tuple[Outputs, ...]
    labels: Tensor | None
    loss: OutputLoss

    def judge(self, outputs: Sequence[Outputs]) -> AnyVerdict:
        """The given outputs against the original's."""
        if self.loss.kind == "relative":
            pairs = zip(self.wanted, outputs, strict=True)
            each = torch.cat([self.loss.per_image(old, new) for old, new in pairs])
            return ErrorVerdict(len(each), float(each.mean()))
        old = torch.cat([y[0].argmax(1) for y in self.wanted])
        new = torch.cat([y[0].argmax(1) for y in outputs])
        labels = old if self.labels is None else self.labels.to(old.device)
        before, after = old == labels, new == labels
        both, lost = int((before & after).sum()), int((before & ~after).sum())
        gained = int((~before & after).sum())
        neither = len(labels) - both - lost - gained
        return Verdict(both, lost, gained, neither, self.labels is not None)


def meet_accuracy_target(
    trials: Trials,
    measurements: Measurements,
    points: float,
    checks: Sequence[CheckImages],
    progress: Progress,
    refinement: Refinement | None = None,
) -> Met:
    """The cheapest choice that loses at most `points` on the first of `checks`, and on another one,
    which verifies it: each of the others is used once. The original network, which loses nothing,
    is the last resort. With a `refinement`, plans are refined before they are judged."""
    table = cost_table(measurements, "macs")
    choices = frontier_choices(measurements, POINTS, table)
    verdicts: dict[int, list[AnyVerdict]] = {}

    def verdict(index: int, check: int) -> AnyVerdict:
        if index not in verdicts:
            progress("checking plans against the accuracy target", len(verdicts), 0)
            forms = chosen_forms(measurements.layers, choices[index].picks)
            factors = trials.factors(forms, progress)
            if refinement is not None:
                factors = trials.refined(factors, refinement, progress)
            # all are run at once, as factors cost more than answers; each is looked at in turn
            verdicts[index] = [each.judge(trials.answers(factors, each.batches)) for each in checks]
        return verdicts[index][check]

    last = len(choices) - 1  # the dearest is the original network
    index, tried = choose_and_verify(verdict, last, len(checks) - 1, points)
    if tried is None:
        return Met(choices[last], 0.0, "nothing was separated, so nothing is lost")
    verified = verdict(index, tried)
    words = verified.words(tried, len(checks) - 1)
    if index - 1 in verdicts:
        share = choices[index - 1].cost / table.original
        words += (
            f"; of the next cheaper plan, {share:.0%} of the MACs, on those that it was searched "
            f"on: {verdict(index - 1, 0).brief}"
        )
    return Met(choices[index], verified.drop, words)


def choose_and_verify(
    verdict: Callable[[int, int], AnyVerdict], last: int, tries: int, points: float
) -> tuple[int, int | None]:
    """The choice, 0 (the cheapest) to `last` (which loses nothing), and the number of the check
    images that verified it.

    `verdict(choice, check)`: those of number 0 are searched on; 1 to `tries` verify, each a single
    choice. Where none of them accepts one, it is `last`, and None.
    """
    low, high = 0, last
    while low < high:
        middle = (low + high) // 2
        if verdict(middle, 0).drop <= points:
            high = middle
        else:
            low = middle + 1
    for check in range(1, tries + 1):
        if low == last:
            break
        if verdict(low, check).drop <= points:
            return low, check
        low += 1  # and what all the images seen so far allow
        while low < last and _seen(verdict, low, check).drop > points:
            low += 1
    return last, None


def _seen(verdict: Callable[[int, int], AnyVerdict], choice: int, check: int) -> AnyVerdict:
    """On all images up to those of `check`."""
    first, *others = [verdict(choice, number) for number in range(check + 1)]
    return sum(others, first)


def check_images_of(
    trials: Trials,
    spare: Sequence[Batch],
    labelled: tuple[Tensor, Tensor] | None,
    quantity: Quantity = "accuracy_drop",
) -> tuple[CheckImages, ...]:
    """Split the labelled data, or the images that planning did not look at.

    One half is to search on. The other is for verifying, each part one plan: a half, a quarter and
    a quarter of it, as far as they are 64 images and more.

    Raises UsageError where the network is no classifier, InputError for too few images or labels
    that do not fit.
    """
    if quantity == "accuracy_drop" and trials.loss.kind != "kl":
        raise UsageError(
            "accuracy_drop needs a classifier, one row of class scores an image; give a budget in "
            "agreement, macs, params, size_mb or latency instead"
        )
    labels = None
    if labelled is not None:
        images, labels = labelled
        check_labels(len(images), labels)
        spare = [on_device_of(trials.network, (part,)) for part in images.split(BATCH)]
    if image_count(spare) < 2 * FEWEST:
        told = "labelled images" if labelled is not None else "images that planning does not use"
        raise InputError(
            f"{quantity} is searched and verified on {told}: {image_count(spare)} are too few, "
            f"at least {2 * FEWEST} are needed"
        )
    parts = _parts(spare)
    answers = [tuple(trials.answers({}, part)) for part in parts]
    given: Sequence[Tensor | None] = [None] * len(parts)
    if labels is not None:
        marks = _parts([(part,) for part in labels.split(BATCH)])
        given = [torch.cat([batch[0] for batch in part]) for part in marks]
    return tuple(
        CheckImages(*each, trials.loss) for each in zip(parts, answers, given, strict=True)
    )


def _parts(batches: Sequence[Batch]) -> list[tuple[Batch, ...]]:
    """Half of the images, and the other half in at most three parts, the largest first."""
    search, rest = split_images(batches, 2)
    parts = [search]
    while len(parts) < TRIES and image_count(rest) >= 2 * FEWEST:
        part, rest = split_images(rest, 2)
        parts.append(part)
    return [*parts, rest]
