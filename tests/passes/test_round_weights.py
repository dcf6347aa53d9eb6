"""Integer weights in place of a layer's own."""

from __future__ import annotations

import pytest
import torch
from nets import Plain, images, rewritten, seeded
from torch import Tensor, fx
from torch.nn import functional as F

from sepify.errors import ConversionError
from sepify.graph.grids import Grid, RoundedWeights
from sepify.passes.fold_batchnorm import FoldBatchNorm
from sepify.passes.round_values import RoundValues
from sepify.passes.round_weights import RoundWeights


def folded() -> fx.GraphModule:
    return rewritten(fx.symbolic_trace(seeded(Plain())), FoldBatchNorm())


def integers(conv: torch.nn.Module) -> RoundedWeights:
    codes = torch.randint(-127, 128, conv.weight.shape, dtype=torch.int8)
    return RoundedWeights(codes, torch.rand(len(codes)) / 100, torch.randn(len(codes)), 8)


@pytest.mark.parametrize("zeros", [torch.full((8,), 128), torch.arange(8)])
def test_a_layer_multiplies_integers_by_integers(zeros: Tensor):
    torch.manual_seed(0)
    given, grid = folded(), Grid(torch.linspace(0.01, 0.05, 8), zeros)
    weights = integers(given.conv2)
    made = rewritten(given, RoundValues({"relu": grid}), RoundWeights({"conv2": weights}))
    x = images()
    value = torch.relu(given.conv1(x))
    codes = (value / grid.scales.view(1, 8, 1, 1)).round() + zeros.view(1, 8, 1, 1)
    codes = codes.clamp(0, 255) - zeros.view(1, 8, 1, 1)
    sums = F.conv2d(codes.double(), weights.codes.double(), None, 2, 1)  # exact
    wanted = sums * weights.scales.view(1, -1, 1, 1) + weights.bias.view(1, -1, 1, 1)
    wanted = given.head(torch.relu(wanted).mean((2, 3)).float())
    torch.testing.assert_close(made(x), wanted)
    assert made.get_buffer("conv2.weight").dtype == torch.int8


def test_an_input_in_float_is_refused():
    given = folded()
    with pytest.raises(ConversionError, match="'conv2': its input is not quantised"):
        RoundWeights({"conv2": integers(given.conv2)}).apply(given)
