"""Top-1 on labelled images, its 95 % interval, and the paired difference of two models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from sepify.errors import InputError

Classifier = Callable[[Tensor], Tensor]

Z95 = NormalDist().inv_cdf(0.975)  # 1.95996..., the normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """Top-1 (or top-5) of two models on the same `images` labelled images, as shares 0 to 1.

    `before` and `after` carry Wilson intervals; `difference` is after - before with Newcombe's
    paired interval; `lost` and `gained` count the images that only `before` and only `after` gets
    right; `p` is McNemar's exact two-sided p-value that the models err equally often.
    """

    images: int
    before: Interval
    after: Interval
    difference: Interval
    lost: int
    gained: int
    p: float


@torch.inference_mode()
def top1(model: Classifier, images: Tensor, labels: Tensor, batch: int = 500) -> float:
    """Share of `images` (n, C, H, W) whose largest output is their label (n,), 0 to 1.

    Raises InputError where there are no images or labels do not fit them.
    """
    check_labels(len(images), labels)
    hits = 0
    for x, y in zip(torch.split(images, batch), torch.split(labels, batch), strict=True):
        hits += int((model(x).argmax(1) == y).sum())
    return hits / len(labels)


def check_labels(images: int, labels: Tensor) -> None:
    """Raise InputError unless `labels` are `images` > 0 class numbers in one dimension."""
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(
            f"labels must be class numbers of shape (n,), not {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    require_one_each(images, labels)


def require_one_each(images: int, targets: Tensor) -> None:
    """Raise InputError unless there are images and as many targets (n, ...) as images."""
    if targets.dim() == 0 or images != len(targets):
        count = 1 if targets.dim() == 0 else len(targets)
        raise InputError(f"{images} images but {count} labels: each image needs one label")
    if images == 0:
        raise InputError("the labelled data is empty: accuracy needs at least one image")


def correct(scores: Tensor, labels: Tensor, who: str, top: int = 1) -> Tensor:
    """Which rows of class scores (n, classes) have their label (n,) among the `top` largest; (n,)
    bool.

    Raises InputError where the scores are not one row of two or more classes for each image, or a
    label is not one of the classes.
    """
    if scores.dim() != 2 or scores.shape[0] != len(labels) or scores.shape[1] < 2:
        raise InputError(
            f"top-1 needs class scores of shape ({len(labels)}, classes), but {who} returned "
            f"{tuple(scores.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
        raise InputError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, but {who} knows classes "
            f"0 to {scores.shape[1] - 1}"
        )
    labels = labels.to(scores.device)
    if top == 1:
        return scores.argmax(1) == labels
    return (scores.topk(top, dim=1).indices == labels[:, None]).any(1)


def accuracy(right_before: Tensor, right_after: Tensor) -> Accuracy:
    """Compare two models by which images (n,) bool each gets right.

    Raises InputError where there are none, or the two differ in number.
    """
    if right_before.shape != right_after.shape or right_before.dim() != 1:
        raise InputError("the two networks were scored on different numbers of images")
    if len(right_before) == 0:
        raise InputError("the labelled data is empty: accuracy needs at least one image")
    both = int((right_before & right_after).sum())
    lost = int((right_before & ~right_after).sum())
    gained = int((~right_before & right_after).sum())
    n = len(right_before)
    return Accuracy(
        images=n,
        before=wilson(both + lost, n),
        after=wilson(both + gained, n),
        difference=paired_difference(both, lost, gained, n - both - lost - gained),
        lost=lost,
        gained=gained,
        p=mcnemar(lost, gained),
    )


def wilson(hits: int, n: int, z: float = Z95) -> Interval:
    """The share hits / n with its Wilson score interval (Wilson 1927, JASA 22:209; Newcombe 1998,
    Statistics in Medicine 17:857, method 3); `z` is the normal quantile of its level."""
    share = hits / n
    centre = 2 * hits + z**2
    # max: at share 0 or 1 rounding may take the root's argument below its exact value
    half = z * sqrt(max(z**2 + 4 * hits * (1 - share), 0.0))
    scale = 2 * (n + z**2)
    return Interval(share, max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0))


def paired_difference(both: int, lost: int, gained: int, neither: int, z: float = Z95) -> Interval:
    """after - before in the share of correct answers, on the same images, with its interval: of
    95 %, or of the level that `z` is the normal quantile of.

    Newcombe 1998, Statistics in Medicine 17:2635, method 10: the Wilson intervals of the two
    shares squared and added, less their correlation phi, whose numerator is continuity-corrected
    where it is positive.
    """
    n = both + lost + gained + neither
    before, after = wilson(both + lost, n, z), wilson(both + gained, n, z)
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    cross = float(both * neither - lost * gained)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / sqrt(margins) if margins else 0.0
    down_after, up_after = after.value - after.low, after.high - after.value
    down_before, up_before = before.value - before.low, before.high - before.value

    def combine(mine: float, other: float) -> float:
        return sqrt(max(mine**2 - 2 * phi * mine * other + other**2, 0.0))

    value = (gained - lost) / n
    return Interval(
        value, value - combine(down_after, up_before), value + combine(up_after, down_before)
    )


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p of McNemar's test (1947, Psychometrika 12:153): the discordant images
    fall on either side like a fair coin. 1 where there are none."""
    if lost + gained == 0:
        return 1.0
    from scipy.stats import binomtest  # a second to import, and needed by few

    return float(binomtest(gained, lost + gained, 0.5).pvalue)
