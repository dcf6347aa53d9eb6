"""Scales of activations, one for each channel, from samples of their values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sepify.graph.grids import Grid

CLIPPINGS = 24
CLIPPED = 0.03  # of the largest magnitude, from one clipping to the next
SAMPLED = 12  # positions of an image, at the least
VALUES = 8_192  # of a channel, in all: too few do not show how far the tails reach
LOPSIDED = 4.0  # times as far on one side of zero as on the other
ON_LATTICE = 1e-2  # of a step
SIGNED, LOPSIDED_ZEROS = 128, (128, 64, 32, 16)


def sample(maps: Sequence[Tensor], axis: int) -> Tensor:
    """(C, n) values at a few random positions of each image of the maps (B, ...), the channels
    along `axis`."""
    each = max(SAMPLED, -(-VALUES // sum(len(part) for part in maps)))
    parts = []
    for number, part in enumerate(maps):
        rows = (
            part.movedim(axis, 0).flatten(2) if part.dim() > 2 else part.movedim(axis, 0)[..., None]
        )
        positions = rows.shape[2]
        if positions > each:
            generator = torch.Generator().manual_seed(number)
            chosen = torch.randperm(positions, generator=generator)[:each]
            rows = rows[:, :, chosen.to(rows.device)]
        parts.append(rows.flatten(1))
    return torch.cat(parts, 1).float()


def choose_grid(
    maps: Sequence[Tensor], axis: int, clip: bool = True, channels: bool = True
) -> Grid:
    """The grid of least squared error for maps (B, ...): zero is code 0 where nothing is negative,
    as behind ReLU, and 128 where values are signed; where one sign prevails, as behind hard-swish,
    whichever of a few codes gives the least error.

    Args:
        maps: a batch each.
        axis: of the channels.
        clip: whether large values may be clipped for the others' sake.
        channels: whether each channel has a scale of its own.
    """
    values = sample(maps, axis)
    count = len(values)
    lowest = min(float(part.min()) for part in maps)
    highest = max(float(part.max()) for part in maps)
    if not channels:
        values = values.reshape(1, -1)
    if not clip:
        zero = 0 if lowest >= 0 else SIGNED
        reach = values.amax(1) if lowest >= 0 else values.abs().amax(1)
        return _one_zero(reach.clamp_min(1e-9) / (Grid.HIGH - zero), zero, axis, count)
    zeros: tuple[int, ...] = (SIGNED,)
    if lowest >= 0:
        zeros = (0,)
    elif highest > -LOPSIDED * lowest:
        zeros = LOPSIDED_ZEROS
    found = [(best_scales(values, Grid.LOW - zero, Grid.HIGH - zero), zero) for zero in zeros]
    (scales, _), zero = min(found, key=lambda each: float(each[0][1].sum()))
    return _one_zero(scales, zero, axis, count)


def _one_zero(scales: Tensor, zero: int, axis: int, channels: int) -> Grid:
    scales = scales.expand(channels).contiguous()
    return Grid(scales, torch.full((channels,), zero, device=scales.device), axis)


def best_scales(values: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """For each channel of (C, n) values the scale s that minimises E(v - s clamp(round(v / s), low,
    high))^2 over 24 clippings of its range, (C,), and those errors (C,). A channel that is always
    zero takes the median scale of the others."""
    reach = values.amax(1) / high
    if low < 0:
        reach = torch.maximum(reach, values.amin(1) / low)
    alive = reach > 0
    spare = reach[alive].median() if bool(alive.any()) else reach.new_ones(())
    reach = torch.where(alive, reach, spare)
    scales, least = reach.clone(), torch.full_like(reach, float("inf"))
    for number in range(CLIPPINGS):
        tried = reach * (1 - CLIPPED * number)
        codes = (values / tried[:, None]).round_().clamp_(low, high)
        error = codes.mul_(tried[:, None]).sub_(values).square_().mean(1)
        better = error < least
        scales, least = torch.where(better, tried, scales), torch.minimum(error, least)
    return scales, least


def widened(scales: Tensor, deviations: Tensor, readers: Tensor, strength: float) -> Tensor:
    """Scales (C,) of a map between two linear layers, traded against the rounding of the weights
    that read it.

    With sigma_c the deviation of channel c, P_c the column of weights that reads it, and the scale
    of row n proportional to its size S_n, the error of the layer's output is to first order

        sum_c |P_c|^2 s_c^2 / 12  +  sum_n S_n^2 / 12 * sum_c sigma_c^2 / s_c^2

    The first term, the map's own rounding, wants s_c no larger than the range needs; the second is
    least for a given first where s_c^2 = sigma_c / |P_c|. Hence
    s_c = max(range_c, strength * sqrt(sigma_c / |P_c|)), both sides relative to their medians.
    """
    if strength == 0:
        return scales
    even = (deviations.clamp_min(1e-9) / readers.clamp_min(1e-9)).sqrt()
    return torch.maximum(scales, strength * even / even.median() * scales.median())


def lattice(maps: Sequence[Tensor], axis: int) -> Grid | None:
    """The grid on which the values of (B, ...) maps lie already, such as images of 256 levels that
    were normalised by channel; None where they lie on none."""
    values = torch.cat([part.movedim(axis, 0).flatten(1) for part in maps], 1)
    scales, zeros = [], []
    for channel in values:
        levels = channel.unique()
        if len(levels) < 3 or len(levels) > 2 * (Grid.HIGH + 1):
            return None
        gaps = levels.diff()
        step = gaps[gaps > 1e-4 * (levels[-1] - levels[0])].min()
        codes = ((levels - levels[0]) / step).double()
        step = step * codes[-1] / codes[-1].round()
        codes = ((levels - levels[0]) / step).double()
        zero = int((-levels[0] / step).round())
        off = (codes - codes.round()).abs().max()
        if codes[-1].round() > Grid.HIGH or not 0 <= zero <= Grid.HIGH or off > ON_LATTICE:
            return None
        scales.append(float(step))
        zeros.append(zero)
    device = values.device
    return Grid(torch.tensor(scales, device=device), torch.tensor(zeros, device=device), axis)
