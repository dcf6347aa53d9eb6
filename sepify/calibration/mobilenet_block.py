"""BatchNorm and ReLU put between solved factors, as in a MobileNet block, with a warm start.

What the ReLU cuts off is lost. So the maps are shifted until little is cut, and the pointwise
weights are solved for once more, from what comes through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from sepify.calibration.moments import SplitMaps, SplitMomentSums, gather
from sepify.calibration.replay import Feed
from sepify.factorize.factors import Between, SeparableFactors
from sepify.factorize.solution import Solution

ForEachBatch = Callable[[Feed], None]

SHIFT = 2.0  # standard deviations that the mean of each map is put above zero


def activate(
    factors: SeparableFactors,
    conv: nn.Conv2d,
    ceiling: float,
    for_each_batch: ForEachBatch,
    shift: float = SHIFT,
) -> SeparableFactors:
    """`factors` (dw-pw) of `conv` with BatchNorm and a ReLU between them, which hold the maps' mean
    and variance; the same function where the ReLU cuts nothing.

    Each filter takes the sign that turns the longer tail of its map's distribution upwards.
    """
    seen = _MapMoments()
    for_each_batch(lambda inputs, _: seen.add(factors.parts[0].run(conv, inputs)))
    signs = seen.signs().to(factors.depthwise)
    turned = replace(
        factors,
        depthwise=factors.depthwise * signs.reshape(-1, 1, 1, 1),
        pointwise=factors.pointwise * signs.reshape(1, -1, 1, 1),
    )
    mean = (seen.mean * signs).float()
    return _undone(turned, mean, seen.variance.float(), ceiling, shift)


def activate_blindly(
    factors: SeparableFactors, ceiling: float, shift: float = SHIFT
) -> SeparableFactors:
    """Do the same without data, as if inputs were independent, of mean 0 and variance 1."""
    variance = factors.depthwise.flatten(1).float().square().sum(1)
    return _undone(factors, torch.zeros_like(variance), variance, ceiling, shift)


def fit_pointwise(
    factors: SeparableFactors,
    conv: nn.Conv2d,
    for_each_batch: ForEachBatch,
    images: int,
    memory: int,
) -> Solution:
    """`factors` with the pointwise weights and the bias that suit what comes through the ReLU, and
    the errors on the fitted and the held-out images. `memory` bounds the statistics, in bytes."""
    seen, start = _pointwise_on_maps(factors, conv, for_each_batch, images, memory)
    solution = seen.improve(start)
    found = solution.factors
    return replace(solution, factors=replace(factors, pointwise=found.kernel(), bias=found.bias))


def judge_pointwise(
    factors: SeparableFactors,
    conv: nn.Conv2d,
    for_each_batch: ForEachBatch,
    images: int,
    memory: int,
) -> Solution:
    """`factors` as they are but for the best bias, and their errors."""
    seen, start = _pointwise_on_maps(factors, conv, for_each_batch, images, memory)
    solution = seen.judge(start)
    return replace(solution, factors=replace(factors, bias=solution.factors.bias))


def _pointwise_on_maps(
    factors: SeparableFactors,
    conv: nn.Conv2d,
    for_each_batch: ForEachBatch,
    images: int,
    memory: int,
) -> tuple[SplitMomentSums | SplitMaps, SeparableFactors]:
    """What the pointwise part by itself takes in and is to give: a 1x1 convolution to be solved,
    and where to start."""
    between = factors.between
    assert between is not None
    channels = factors.pointwise.shape[1]
    seen = gather(nn.Conv2d(channels, conv.out_channels, 1, device="meta"), images, memory)
    for_each_batch(
        lambda inputs, outputs: seen.add(between(factors.parts[0].run(conv, inputs)), outputs)
    )
    ones = torch.ones(channels, 1, 1, 1).to(factors.pointwise)
    return seen, SeparableFactors("dw-pw", 1, ones, factors.pointwise, None)


def _undone(
    factors: SeparableFactors, mean: Tensor, variance: Tensor, ceiling: float, shift: float
) -> SeparableFactors:
    """`factors` with BatchNorm of these statistics, and its scale and shift taken back by the
    pointwise weights and the bias."""
    ones = torch.ones_like(variance)
    between = Between(mean, variance, ones, shift * ones, ceiling)
    pointwise = factors.pointwise / between.scale.reshape(1, -1, 1, 1).to(factors.pointwise)
    added = factors.pointwise.flatten(1).float() @ mean - shift * pointwise.flatten(1).float().sum(
        1
    )
    bias = added if factors.bias is None else factors.bias.float() + added
    return replace(
        factors, pointwise=pointwise, bias=bias.to(factors.pointwise.dtype), between=between
    )


class _MapMoments:
    """Mean, variance and skewness of each channel over images and positions, in float64."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None
        self.count = 0

    def add(self, maps: Tensor) -> None:
        """Add maps of shape (B, C, H, W)."""
        rows = maps.double().transpose(0, 1).flatten(1)
        sums = torch.stack([rows.pow(power).sum(1) for power in (1, 2, 3)])
        self.sums = sums if self.sums is None else self.sums + sums
        self.count += rows.shape[1]

    @property
    def mean(self) -> Tensor:
        """Per channel, (C,)."""
        return self._raw(1)

    @property
    def variance(self) -> Tensor:
        """Per channel, (C,)."""
        return (self._raw(2) - self.mean.square()).clamp_min(0)

    def signs(self) -> Tensor:
        """1 where the longer tail is above the mean, -1 where it is below, (C,)."""
        third = self._raw(3) - 3 * self.mean * self._raw(2) + 2 * self.mean.pow(3)
        return torch.where(third < 0, -1.0, 1.0)

    def _raw(self, power: int) -> Tensor:
        assert self.sums is not None, "nothing was counted in"
        return self.sums[power - 1] / self.count
