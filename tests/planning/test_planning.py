import json
from dataclasses import replace

import pytest
import torch
from nets import Plain, images, seeded
from torch import fx, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sepify.errors import FileError, PlanError, UsageError
from sepify.factorize.svd import factorize_svd
from sepify.graph import convolutions as survey
from sepify.passes.separate import separate_convolutions
from sepify.planning.uniform import plan_uniform
from sepify.plans.check import check_plan
from sepify.plans.file import load_plan, save_plan
from sepify.plans.forms import ORDERS
from sepify.plans.plan import Cost, Decision, Plan


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
    expected = {
        "pointwise": "1x1: already pointwise",
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


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_predicted_macs_and_parameters_are_those_counted(order, rank):
    network = fx.symbolic_trace(seeded(Plain(16)))
    x = images(2, size=13)
    plan = plan_uniform(network, (x,), rank=rank, order=order, allow_costlier=True)
    factors = {}
    for decision in plan.separated:
        conv = network.get_submodule(decision.name)
        factors[decision.name] = factorize_svd(conv.weight, conv.bias, order, decision.rank)
    small = separate_convolutions(network, factors)
    for model, costs in (
        (network, [d.before for d in plan]),
        (small, [d.after for d in plan]),
    ):
        with FlopCounterMode(display=False) as counter:
            model(x)
        linear = 2 * model.head.weight.numel() * len(x)
        assert sum(c.macs for c in costs) * 2 * len(x) == counter.get_total_flops() - linear
        convs = sum(p.numel() for name, p in model.named_parameters() if name.startswith("conv"))
        assert sum(c.params for c in costs) == convs


def test_a_rewrite_that_would_cost_more_is_kept_with_the_figure():
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(4, 4, 3, stride=2)))
    plan = plan_uniform(network, rank=3, order="pw-dw")
    assert plan["0"].action == "keep"
    # per output pixel: 4 * (3*4*4) + 3*4*9 = 300 against 4*4*9 = 144
    assert plan["0"].reason == "cost would rise: 2.08x the multiply-adds as pw-dw at rank 3"
    allowed = plan_uniform(network, rank=3, order="pw-dw", allow_costlier=True)
    assert allowed["0"].rank == 3


def test_keep_patterns_and_filter():
    network = fx.symbolic_trace(seeded(Plain()))
    assert plan_uniform(network, keep=["*1"])["conv1"].reason == "asked to keep '*1'"
    plan = plan_uniform(network, filter_fn=lambda module, name: module.stride == (1, 1))
    assert [d.name for d in plan.separated] == ["conv1"]
    assert plan["conv2"].reason == "refused by filter_fn"
    with pytest.raises(PlanError, match="'layer9' matches no convolution"):
        plan_uniform(network, keep=["layer9"])


def test_layers_of_lower_full_rank_take_theirs():
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(32, 2, 3), nn.Conv2d(2, 32, 3)))
    plan = plan_uniform(network, rank=5, allow_costlier=True)
    assert (plan["0"].rank, plan["1"].rank) == (2, 5)
    assert "exact" in plan["0"].reason
    assert plan["0"].error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rank=0), "rank 0 is too low"),
        (dict(rank=10), "rank 10 is too high: 9 already"),
        (dict(order="pw"), "order 'pw' is not known"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(UsageError, match=message):
        plan_uniform(fx.symbolic_trace(seeded(Plain(16))), **options)


def test_plan_file_round_trip(tmp_path):
    plan = plan_uniform(fx.symbolic_trace(seeded(Plain())), (images(),), rank=2, keep=["conv1"])
    plan = replace(plan, method="svd", batchnorm=True)
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


def edited(tmp_path, change) -> str:
    plan = plan_uniform(fx.symbolic_trace(seeded(Plain())), (images(),))
    path = tmp_path / "plan.json"
    save_plan(plan, path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="other"), "not a plan"),
        (lambda d: d.update(version=9), "version 9"),
        (lambda d: d.update(method="magic"), "'magic'"),
        (lambda d: d.update(convolutions=3), "not a list"),
        (lambda d: d["convolutions"][0].pop("name"), "convolution 1 has no name"),
        (lambda d: d["convolutions"][0].update(action="drop"), "'conv1': action 'drop'"),
        (lambda d: d["convolutions"][0].update(rank="two"), "'conv1': rank 'two'"),
        (lambda d: d["convolutions"][0].update(order="up"), "'conv1': order 'up'"),
        (lambda d: d["convolutions"][0].update(macs=[1]), "'conv1': macs has 1 items, not 2"),
        (lambda d: d["convolutions"][0].update(action="keep"), "'conv1': order and rank belong"),
        (lambda d: d["convolutions"][1].update(name="conv1"), "'conv1' is listed twice"),
    ],
)
def test_a_badly_edited_plan_names_the_entry(tmp_path, change, message):
    with pytest.raises(PlanError, match=message):
        load_plan(edited(tmp_path, change))


def test_a_plan_that_is_not_json(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"format": "sepify-plan",\n  oops}')
    with pytest.raises(FileError, match="line 2, column 3"):
        load_plan(path)


def decide(name: str, rank: int = 1, kernel: tuple[int, ...] = ()) -> Decision:
    cost = Cost(None, 0)
    return Decision(name, "separate", "by hand", kernel, cost, cost, "dw-pw", rank)


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
