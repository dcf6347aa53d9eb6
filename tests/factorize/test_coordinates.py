"""Coordinates in which every direction of the factors moves the output alike."""

import pytest
import torch
from nets import images
from torch import nn

from sepify.factorize import coordinates
from sepify.factorize.coordinates import whiten
from sepify.factorize.factors import part_inputs
from sepify.factorize.svd import factorize_svd
from sepify.plans.forms import ORDERS


def correlated(channels: int) -> torch.Tensor:
    """Smooth images whose channels are mixtures of two: most directions carry little."""
    smooth = nn.functional.avg_pool2d(images(24, 2, 14), 3, 1)
    mix = torch.randn(channels, 2, generator=torch.Generator().manual_seed(2))
    return torch.einsum("cm,bmhw->bchw", mix, smooth) + 0.1 * images(24, channels, 12, seed=3)


def solved(order, rank: int, dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, padding=1, stride=2).to(dtype)
    return conv, factorize_svd(conv.weight, conv.bias, order, rank)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("widest", [2_048, 2])
def test_the_way_back_gives_the_factors(order, widest, monkeypatch):
    monkeypatch.setattr(coordinates, "WIDEST", widest)
    conv, factors = solved(order, 2)
    whitened = whiten(factors, conv, correlated(6))
    for parameter in whitened.parameters:
        assert float(parameter.detach().square().mean()) == pytest.approx(1, abs=1e-3)
    back = whitened.factors()
    for name in ("depthwise", "pointwise", "bias"):
        torch.testing.assert_close(
            getattr(back, name), getattr(factors, name), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("order", ORDERS)
def test_every_direction_weighs_alike(order):
    """The output's movement for a unit step is E[(z'd)^2]: its spread over directions d."""
    conv, factors = solved(order, 1)
    inputs = correlated(6)
    at = list(factors.weights).index("pointwise")
    root = whiten(factors, conv, inputs).roots[at][0].double()
    rows = part_inputs(factors, conv, inputs)[at].transpose(0, 1).flatten(1).double()
    second = rows @ rows.T / rows.shape[1]
    plain = torch.linalg.eigvalsh(second)
    white = torch.linalg.eigvalsh(root @ second @ root)
    assert plain.max() / plain.min() > 5
    assert white.max() / white.min() < 1.5


def test_half_precision_and_inputs_without_any_variance():
    conv, factors = solved("dw-pw", 2, torch.bfloat16)
    whitened = whiten(factors, conv, torch.zeros(4, 6, 8, 8, dtype=torch.bfloat16))
    back = whitened.factors()
    assert back.pointwise.dtype == torch.bfloat16
    assert torch.isfinite(back.pointwise).all()
    assert torch.isfinite(whitened.parameters[0]).all()
