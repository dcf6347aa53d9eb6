"""Scales of least error, for every shape of values."""

from __future__ import annotations

import pytest
import torch

from sepify.quantising.scales import best_scales, choose_grid, lattice, sample, widened


def test_clipping_pays_where_one_value_is_far_out():
    torch.manual_seed(0)
    values = torch.rand(2, 4000)
    values[1, 0] = 1.6
    scales, errors = best_scales(values, 0, 15)
    assert scales[0] > 0.95 / 15
    assert scales[1] < 1.6 / 15
    plain = (values / (1.6 / 15)).round() * (1.6 / 15) - values
    assert errors[1] < plain[1].square().mean()


@pytest.mark.parametrize(
    ("make", "zeros"),
    [
        (lambda x: x.relu(), {0}),
        (lambda x: x, {128}),
        (torch.nn.functional.silu, {16, 32, 64}),
    ],
)
def test_zero_is_where_the_values_want_it(make, zeros):
    torch.manual_seed(0)
    maps = [make(4 * torch.randn(8, 3, 9, 9)) for _ in range(2)]
    grid = choose_grid(maps, 1)
    assert set(grid.zero_points.tolist()) <= zeros
    assert (grid.round(maps[0]) - maps[0]).square().mean() < 3e-3


def test_a_channel_of_zeros_takes_a_scale_of_the_others():
    maps = [torch.rand(8, 3, 4, 4) * torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1)]
    scales = choose_grid(maps, 1).scales
    assert scales[1] == torch.stack([scales[0], scales[2]]).min()


@pytest.mark.parametrize(("shape", "axis"), [((5, 7), 1), ((5, 4, 7), 2), ((5, 7, 3, 3), 1)])
def test_samples_have_a_row_for_each_channel(shape, axis):
    values = torch.arange(7.0).view([7 if d == axis else 1 for d in range(len(shape))])
    rows = sample([values.expand(shape)], axis)
    assert rows[:, 0].tolist() == list(range(7))
    assert torch.equal(rows, rows[:, :1].expand_as(rows))


def test_images_of_256_levels_stay_what_they_are():
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, 16, 16))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (pixels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    grid = lattice([images], 1)
    assert grid is not None
    assert grid.zero_points.tolist() == [124, 116, 104]
    codes = (images * (1 / grid.scales.view(3, 1, 1))).round() + grid.zero_points.view(3, 1, 1)
    assert torch.equal(codes.long(), pixels)
    assert lattice([torch.randn(20, 3, 16, 16)], 1) is None


def test_wider_scales_where_weights_are_small_and_values_vary():
    scales = torch.full((3,), 0.1)
    made = widened(scales, torch.tensor([1.0, 4.0, 1.0]), torch.tensor([1.0, 1.0, 4.0]), 1.0)
    assert made[1] > made[0] == scales[0]
    assert made[2] == scales[2]
    assert torch.equal(widened(scales, scales, scales, 0), scales)
