"""Convolutions of every kind become modules under their own names, however they are called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sepify
from sepify.capture import capture

LAYERS = {
    "Conv1d": (nn.Conv1d(4, 6, 3, 2, 1, bias=False), (2, 4, 9)),
    "Conv1d same": (nn.Conv1d(4, 6, 3, padding="same", dilation=2), (2, 4, 9)),
    "Conv3d": (nn.Conv3d(4, 6, (1, 3, 2), groups=2), (2, 4, 3, 5, 6)),
    "ConvTranspose1d": (nn.ConvTranspose1d(4, 6, 3, 2, 1, output_padding=1), (2, 4, 9)),
    "ConvTranspose2d": (nn.ConvTranspose2d(4, 6, (4, 3), 2, 1, groups=2), (2, 4, 5, 6)),
    "ConvTranspose3d": (nn.ConvTranspose3d(4, 6, 2, 2, bias=False), (2, 4, 3, 3, 3)),
}


class Net(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.relu())


def traced(model, x):
    return torch.jit.trace(model, x)


def scripted(model, _):
    return torch.jit.script(model)


def exported(model, x):
    return torch.export.export(model, (x,))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("form", [traced, scripted, exported])
def test_a_convolution_of_a_file_is_a_module(name, form):
    layer, shape = LAYERS[name]
    x = torch.randn(shape)
    model = Net(layer).eval()
    graph = capture(form(model, x), (x,)).graph_module
    found = graph.get_submodule("layer")
    assert type(found) is type(layer)
    assert str(found) == str(layer)
    torch.testing.assert_close(graph(x), model(x))


@pytest.mark.parametrize("form", [lambda model, _: model, traced, scripted])
def test_the_plan_says_what_a_transposed_convolution_is_and_costs(form):
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(16, 3, 4, 2, 1)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), up).eval()
    x = torch.randn(1, 3, 16, 16)
    plan = sepify.plan(form(model, x), x, rank=1)
    assert plan["2"].reason == "ConvTranspose2d: only Conv2d is rewritten"
    assert plan["2"].before.macs == 16 * 16 * 16 * 3 * 4 * 4  # each pixel read, 3 x 4 x 4 taps
