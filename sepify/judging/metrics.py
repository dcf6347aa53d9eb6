"""The user's own metric, for tasks other than classification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from sepify.errors import InputError
from sepify.faults import users_code
from sepify.judging.statistics import Z95, Interval

# metric(output, targets) -> one number an image, (n,); several outputs come as a tuple
Metric = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class MetricResult:
    """The mean of a metric over `images` images for both networks, and of its paired difference
    after - before, each with the 95 % interval of a mean (normal approximation, s / sqrt(n))."""

    name: str
    images: int
    before: Interval
    after: Interval
    difference: Interval


def metric_values(metric: Metric, outputs: Any, targets: Tensor, name: str) -> Tensor:
    """What `metric` gives each image of a batch, (n,) float64. Raises InputError where it fails,
    returns anything else, or NaN."""
    with users_code(f"the metric {name}"), torch.inference_mode():
        values = metric(outputs, targets)
    if not isinstance(values, Tensor) or values.shape != (len(targets),):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"the metric {name} must return one number an image, a tensor ({len(targets)},), "
            f"not {got}"
        )
    if not torch.isfinite(values).all():
        raise InputError(f"the metric {name} returned NaN or infinity")
    return values.double().cpu()


def metric_result(name: str, before: Tensor, after: Tensor) -> MetricResult:
    """Compare two networks by their values (n,) on the same images. Raises InputError for none."""
    if len(before) == 0:
        raise InputError(f"the data is empty: the metric {name} needs at least one image")
    return MetricResult(
        name,
        len(before),
        mean_interval(before),
        mean_interval(after),
        mean_interval(after - before),
    )


def mean_interval(values: Tensor) -> Interval:
    """Mean of (n,) with mean +- z s / sqrt(n); of a single value, the value alone."""
    mean = float(values.mean())
    half = Z95 * float(values.std()) / sqrt(len(values)) if len(values) > 1 else 0.0
    return Interval(mean, mean - half, mean + half)
