"""Rounding with compensation against rounding to nearest and against the best there is."""

from __future__ import annotations

import itertools

import pytest
import torch

from sepify.graph.grids import LARGEST_WEIGHT
from sepify.quantising.rounding import compensated, nearest


def problem(groups: int, rows: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    mixed = torch.randn(groups, 4 * size, size, dtype=torch.float64)
    mixed = mixed @ torch.randn(groups, size, size, dtype=torch.float64) + 2 * mixed[..., :1]
    return torch.randn(groups, rows, size, dtype=torch.float64), mixed.mT @ mixed / (4 * size)


def error(off: torch.Tensor, covariance: torch.Tensor) -> float:
    return float(((off @ covariance) * off).sum())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("groups", "rows", "size"), [(1, 16, 150), (12, 1, 9)])
def test_errors_make_up_for_each_other(bits, groups, rows, size):
    weights, covariance = problem(groups, rows, size)
    codes, scales = compensated(weights, covariance, bits)
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() <= LARGEST_WEIGHT[bits]
    plain, steps = nearest(weights, bits)
    ratio = error(weights - codes * scales, covariance) / error(weights - plain * steps, covariance)
    assert ratio < 0.5


def test_few_columns_are_rounded_nearly_as_well_as_possible():
    weights, covariance = problem(1, 1, 4)
    codes, scales = compensated(weights, covariance, 4)
    near = (weights / scales).round()
    tried = torch.tensor(list(itertools.product((-1, 0, 1), repeat=4))).double() + near
    off = weights - tried.clamp(-7, 7).view(-1, 1, 4) * scales
    best = ((off @ covariance) * off).sum(2).min()
    assert error(weights - codes * scales, covariance) <= 1.5 * float(best)


def test_a_row_of_zeros_stays_zero():
    weights, covariance = problem(1, 3, 5)
    weights[0, 1] = 0
    codes, scales = compensated(weights, covariance, 8)
    assert not codes[0, 1].any()
    assert bool((scales > 0).all())
