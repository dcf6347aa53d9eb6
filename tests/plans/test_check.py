import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from sepify.errors import PlanError
from sepify.graph.convolutions import survey
from sepify.plans.check import check_plan
from sepify.plans.costs import Cost
from sepify.plans.forms import Separate
from sepify.plans.plan import Decision, Plan


class OwnForward(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class OnlyRenamed(nn.Conv2d):
    pass


class Zoo(nn.Module):
    """One convolution for each reason to keep it, and two that can go."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(8, 8, 3, padding=1)
        self.renamed = OnlyRenamed(8, 8, 3, padding=1)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.own = OwnForward(8, 8, 3, padding=1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.read = nn.Conv2d(8, 8, 3, padding=1)
        self.hooked = nn.Conv2d(8, 8, 3, padding=1)
        self.hooked.register_forward_hook(lambda module, args, result: result + 1)
        self.transposed = nn.ConvTranspose2d(8, 8, 3, padding=1)
        self.line = nn.Conv1d(8, 8, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x):
        for layer in (self.plain, self.renamed, self.pointwise, self.grouped, self.depthwise):
            x = layer(x)
        x = self.hooked(self.read(self.normed(self.own(x)))) + self.read.weight.mean()
        x = self.transposed(F.conv2d(x, self.weight.softmax(1), padding=1))
        return self.line(x.flatten(2))


class KeepConvsWhole(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, nn.modules.conv._ConvNd) or super().is_leaf_module(module, name)


def traced(network: nn.Module) -> fx.GraphModule:
    return fx.GraphModule(network, KeepConvsWhole().trace(network))


def test_every_convolution_is_found_and_every_refusal_has_its_reason():
    found = {c.name: c.obstacle for c in survey(traced(Zoo()))}
    functional = found.pop("conv2d")
    assert found.pop("plain") is None
    assert found.pop("renamed") is None
    assert found.pop("pointwise") is None
    expected = {
        "grouped": "grouped convolution (groups=2)",
        "depthwise": "already depthwise",
        "own": "subclass OwnForward with its own forward",
        "normed": "computed weight (parametrised, normalised or spectral)",
        "read": "its weight is also read by the graph as 'read.weight'",
        "hooked": "forward hooks that a rewrite would lose",
        "transposed": "ConvTranspose2d: only Conv2d is rewritten",
        "line": "Conv1d: only Conv2d is rewritten",
    }
    assert found == expected
    assert "called as a function" in functional


def decide(name: str, rank: int = 1, kernel: tuple[int, ...] = ()) -> Decision:
    cost = Cost(None, 0)
    return Decision(name, Separate("dw-pw", rank), "by hand", kernel, cost, cost)


def test_plans_that_do_not_fit_the_model():
    network = traced(Zoo())
    found = survey(network)
    for decision, message in [
        (decide("nowhere"), "'nowhere', which is no convolution"),
        (decide("grouped"), "'grouped' cannot be separated: grouped"),
        (decide("plain", rank=9), "rank 9 is too high, 8 is already exact"),
        (decide("plain", kernel=(9, 9, 3, 3)), r"'plain' has a kernel \(9, 9, 3, 3\)"),
    ]:
        with pytest.raises(PlanError, match=message):
            check_plan(Plan((decision,)), found)
    check_plan(Plan((decide("plain"),)), found)


def test_tied_weights_must_be_treated_alike():
    a, b = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
    b.weight = a.weight
    found = survey(fx.symbolic_trace(nn.Sequential(a, b)))
    check_plan(Plan((decide("0", 2), decide("1", 2))), found)
    with pytest.raises(PlanError, match="share one weight"):
        check_plan(Plan((decide("0", 2), decide("1", 1))), found)
