import pytest
import torch
from factorize.test_least_squares import correlated, moments_of, seeded_conv
from torch import nn

from sepify.factorize.conjugate_gradients import Maps, solve_on_maps
from sepify.factorize.least_squares import solve_least_squares
from sepify.factorize.svd import factorize_svd
from sepify.plans.forms import ORDERS


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rank", [1, 2])
@torch.no_grad()
def test_it_finds_what_the_moments_find(order, rank):
    conv = seeded_conv(padding=1, stride=2, padding_mode="reflect")
    maps = [Maps(x, conv(x)) for x in (correlated(24, seed=1), correlated(8, seed=2))]
    fit, held = (moments_of(conv, each.inputs, each.outputs) for each in maps)
    start = factorize_svd(conv.weight, conv.bias, order, rank)
    expected = solve_least_squares(start, fit, held)
    given = solve_on_maps(start, conv, *maps, iterations=30)
    assert given.heldout_error == pytest.approx(held.error(given.factors.kernel()), rel=1e-3)
    assert given.heldout_error < 1.1 * expected.heldout_error
    assert given.heldout_error < 0.9 * held.error(start.kernel())
    torch.testing.assert_close(
        given.factors.bias, fit.bias(given.factors.kernel()).float(), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_dead_channels_and_no_variance_give_finite_factors(order):
    conv = nn.Conv2d(6, 8, 3)
    for x in (
        torch.zeros(8, 6, 14, 14),
        correlated(8) * torch.arange(6).clamp_max(1)[:, None, None],
    ):
        maps = Maps(x, conv(x))
        start = factorize_svd(conv.weight, conv.bias, order, 1)
        given = solve_on_maps(start, conv, maps, maps).factors
        assert torch.isfinite(given.kernel()).all()
        assert torch.isfinite(given.bias).all()
