"""What is quantised follows from the graph alone."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from nets import Residual, images, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from sepify.capture import capture
from sepify.errors import PlanError
from sepify.passes.pipelines import inference_copy
from sepify.quantising.sites import Selection, Sites, find_sites, float_shapes
from sepify.quantising.walk import values_of


def sites_of(network: nn.Module, bits: int = 8, keep: Selection = ()) -> Sites:
    graph_module = inference_copy(capture(network.eval(), (images(),)).graph_module, ())
    return find_sites(graph_module, float_shapes(values_of(graph_module, (images(),))), bits, keep)


def rounded(sites: Sites) -> list[str]:
    return [str(node.target) if node.op == "call_module" else node.name for node in sites.values]


def test_sums_are_rounded_once_and_what_only_they_read_not_at_all():
    sites = sites_of(seeded(Residual()))
    assert [layer.name for layer in sites.layers.values()] == ["stem", "conv1", "conv2"]
    assert len(rounded(sites)) == 3  # the image, and both activations that a layer reads
    assert "conv2" not in rounded(sites)


class Linears(nn.Module):
    """Pointwise, depthwise, pointwise without anything between, as a bottleneck is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(
            OrderedDict(
                a=nn.Conv2d(8, 4, 1, bias=False),
                b=nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
                c=nn.Conv2d(8, 6, 1),
            )
        )
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(F.relu(self.stem(x)))).mean((2, 3)))


def test_maps_between_linear_layers_are_found_without_names():
    sites = sites_of(Linears(), 4)
    found = {layer.name: layer for layer in sites.layers.values()}
    assert [name for name, layer in found.items() if layer.between] == ["body.a", "body.b"]
    readers = {v.node.target: v.reader and v.reader.target for v in sites.values.values()}
    assert readers["body.b"] == "body.c"
    assert readers["body.a"] is None  # a column of the depthwise layer is a row with its own scale
    bits = {name: layer.bits for name, layer in found.items()}
    assert bits == {"stem": 8, "body.a": 4, "body.b": 8, "body.c": 4, "head": 8}


class Odd(nn.Module):
    """Layers without an integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.reflected = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(F.relu(self.twice(F.relu(self.reflected(x)))))
        return torch.softmax(self.last(self.up(x)), 1)


def test_what_stays_in_float_says_why():
    sites = sites_of(Odd())
    assert [layer.name for layer in sites.layers.values()] == ["last"]
    reasons = sites.floating
    assert "reflect" in reasons["reflected"]
    assert "several places" in reasons["twice"]
    assert "ConvTranspose2d" in reasons["up"]
    assert sites.others["softmax"] == 1


@pytest.mark.parametrize("keep", [("body.*",), lambda module, name: name.startswith("body")])
def test_layers_are_kept_that_the_user_wants_kept(keep):
    sites = sites_of(Linears(), keep=keep)
    assert [layer.name for layer in sites.layers.values()] == ["stem", "head"]
    assert all(why.startswith("asked to keep") for why in sites.floating.values())


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(PlanError, match=r"'nothing\*' matches no layer"):
        sites_of(Linears(), keep=["nothing*"])
