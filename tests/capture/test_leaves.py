"""Convolutions inside layers that cannot be traced: seen, counted and rewritten where they are."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from capture.forms import run
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sepify
from sepify.capture import capture
from sepify.graph.convolutions import survey
from sepify.graph.maps import measure_maps

X = torch.randn(4, 3, 16, 16)


class Chooser(nn.Module):
    """Follows the contents of its input; one branch is not taken."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.branches = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=2), nn.ReLU()
        )
        self.never = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.abs().mean()) > 1e9:
            return self.never(x)
        return self.branches(self.conv(input=x)) + self.conv(x)


class Reader(Chooser):
    """Reads its convolution's weight."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.abs().mean()) > 1e9:
            return x
        return self.conv(x) * self.conv.weight.shape[0]


class Net(nn.Module):
    def __init__(self, chooser: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.chooser = chooser
        self.last = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.chooser(self.chooser(self.stem(x))))


def net(chooser: type[nn.Module] = Chooser) -> nn.Module:
    torch.manual_seed(0)
    return Net(chooser()).eval()


def macs(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(X[:1])
    return counter.get_total_flops() // 2


def test_they_are_listed_with_their_obstacles() -> None:
    found = {c.name: c for c in survey(capture(net(), (X,)).graph_module)}
    assert list(found) == [*("stem", "chooser.conv", "chooser.branches.0", "chooser.never", "last")]
    assert found["chooser.conv"].obstacle is None
    assert found["chooser.conv"].leaf == "chooser"
    assert found["stem"].leaf is None
    assert "grouped" in str(found["chooser.branches.0"].obstacle)


def test_their_costs_are_those_of_every_call() -> None:
    graph_module = capture(net(), (X,)).graph_module
    maps = measure_maps(graph_module, (X,))
    assert maps["chooser.conv"].written == 4 * 16 * 16  # twice in each of two calls
    assert "chooser.never" not in maps
    assert not any(m._forward_hooks for m in graph_module.modules())


@pytest.mark.parametrize("order", ["dw-pw", "pw-dw"])
def test_they_are_rewritten_where_they_are(order: sepify.factorize.factors.Order) -> None:
    model = net()
    small = sepify.convert(
        model,
        example_inputs=X,
        architecture=sepify.Architecture(form=order),
        rank=1,
        solver=sepify.Solver(method="svd"),
    )
    assert {"chooser.conv.depthwise.weight", "chooser.conv.pointwise.weight"} <= set(
        small.state_dict()
    )
    assert macs(small) < macs(model)
    plan = small.meta["sepify"].plan
    assert macs(small) == sum(d.after.macs or 0 for d in plan)
    assert macs(model) == sum(d.before.macs or 0 for d in plan)
    for x in (X, torch.randn(1, 3, 20, 24)):
        expected = run(small, (x,))
        assert torch.equal(run(pickle.loads(pickle.dumps(small)), (x,)), expected)
        assert torch.equal(run(copy.deepcopy(small), (x,)), expected)
    small(X).sum().backward()
    assert small.get_parameter("chooser.conv.depthwise.weight").grad is not None


def test_at_full_rank_nothing_changes() -> None:
    model = net()
    plan = sepify.plan(model, X, rank=None, architecture=sepify.Architecture(costlier=True))
    assert plan["chooser.conv"].form.rewrites
    small = sepify.convert(model, example_inputs=X, plan=plan, solver=sepify.Solver(method="svd"))
    expected = run(model, (X,))
    assert (run(small, (X,)) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_with_data_they_are_solved_from_their_weights_and_it_is_said() -> None:
    images = torch.randn(32, 3, 16, 16)
    small = sepify.convert(net(), calibration=images, rank=1, solver=sepify.Solver(refine=False))
    plan = small.meta["sepify"].plan
    assert plan["chooser.conv"].reason.endswith(
        "inside 'chooser', so solved from its weights alone"
    )
    assert plan["chooser.conv"].heldout_error is None
    assert plan["last"].heldout_error is not None
    assert "chooser.conv.depthwise.weight" in small.state_dict()


def test_a_layer_that_reads_its_convolution_keeps_it() -> None:
    model = net(Reader)
    graph_module = capture(model, (X,)).graph_module
    found = {c.name: c for c in survey(copy.deepcopy(graph_module))}
    obstacle = str(found["chooser.conv"].obstacle)
    assert "inside 'chooser', which was left whole and does more with it than call it" in obstacle
    assert "has no attribute 'weight'" in obstacle
    small = sepify.convert(model, example_inputs=X, solver=sepify.Solver(method="svd"))
    assert small.meta["sepify"].plan["chooser.conv"].reason == obstacle
    assert small.meta["sepify"].plan["stem"].form.rewrites
