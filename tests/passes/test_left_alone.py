"""Reasons for which passes leave sites alone: those without a file of tests of their own."""

from collections import OrderedDict

import pytest
import torch
from nets import images
from torch import fx, nn

from sepify.passes.complete_blocks import CompleteBlocks
from sepify.passes.drop_checks import DropChecks
from sepify.passes.out_of_place import MakeOutOfPlace
from sepify.passes.settle_batchnorm import SettleBatchNorm


class Small(nn.Module):
    """A separable convolution, and what `behind` does with its output."""

    def __init__(self, behind):
        super().__init__()
        parts = {
            "depthwise": nn.Conv2d(3, 3, 3, padding=1, groups=3),
            "pointwise": nn.Conv2d(3, 3, 1),
        }
        self.a = nn.Sequential(OrderedDict(parts))
        self.b = nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        self.behind = behind

    def forward(self, x):
        return self.behind(self, self.a(x), x)


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        (lambda m, y, x: m.b(y), None),
        (lambda m, y, x: m.b(torch.relu(m.bn(y))), None),
        (
            lambda m, y, x: y,
            "no BatchNorm: its value may reach the outputs first; "
            "no activation: its value may reach the outputs first",
        ),
        (lambda m, y, x: m.b(m.bn(y) + x), "no activation: an addition comes first"),
        (
            lambda m, y, x: m.b(m.a(y)),
            "called in several places: what follows in one may not in others",
        ),
    ],
)
def test_blocks_that_are_not_completed(behind, reason):
    network = fx.symbolic_trace(Small(behind).eval())
    result = CompleteBlocks(names=("a",)).apply(network)
    assert dict(result.left_alone) == ({} if reason is None else {"a": reason})


def test_a_block_that_no_node_calls():
    network = fx.symbolic_trace(Small(lambda m, y, x: m.b(y)).eval())
    result = CompleteBlocks(names=("c",)).apply(network)
    assert dict(result.left_alone) == {"c": "no node calls it: it is inside of another module"}
    assert not result.changed


def test_batchnorm_that_is_not_settled():
    network = fx.symbolic_trace(Small(lambda m, y, x: m.bn(y)).eval())
    found = SettleBatchNorm(("bn", "b"), [(images(),)]).apply(network)
    assert found.changed
    assert dict(found.left_alone) == {"b": "there is no BatchNorm"}
    unreached = SettleBatchNorm(("bn",), []).apply(network)
    assert dict(unreached.left_alone) == {"bn": "no batch reaches it"}
    blind = SettleBatchNorm(("bn",)).apply(network)
    assert dict(blind.left_alone) == {"bn": "there are no calibration data"}
    assert not blind.changed


def test_what_a_check_alone_reads_goes_with_it_but_for_what_writes():
    graph = fx.Graph()
    x = graph.placeholder("x")
    written = graph.call_method("add_", (x, 1))
    graph.call_function(torch._assert, (graph.call_method("all", (written,)), "positive"))
    graph.output(x)
    network = fx.GraphModule(nn.Module(), graph)
    result = DropChecks().apply(network)
    assert dict(result.left_alone) == {"add_": "it writes to what others may read"}
    assert [node.name for node in network.graph.nodes] == ["x", "add_", "output"]
    assert not DropChecks().apply(network).changed


def test_writes_that_stay():
    graph = fx.Graph()
    x = graph.placeholder("x")
    part = graph.call_function(torch.ops.aten.select.int, (x, 0, 0))
    assigned = graph.call_function(torch.ops.aten.copy_, (part, 0))
    graph.output((x, assigned))
    result = MakeOutOfPlace().apply(fx.GraphModule(nn.Module(), graph))
    assert list(result.left_alone.values()) == [
        "it assigns to a part of a value, which other nodes read"
    ]
