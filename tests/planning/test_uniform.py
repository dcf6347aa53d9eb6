import pytest
from nets import Plain, images, rewritten, seeded
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from sepify.errors import PlanError, UsageError
from sepify.factorize.svd import factorize_svd
from sepify.passes.separate import SeparateConvolutions
from sepify.planning.uniform import plan_uniform
from sepify.plans.forms import ORDERS, Keep, Separate


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_predicted_macs_and_parameters_are_those_counted(order, rank):
    network = fx.symbolic_trace(seeded(Plain(16)))
    x = images(2, size=13)
    plan = plan_uniform(network, (x,), rank=rank, form=order, allow_costlier=True)
    factors = {}
    for decision in plan.rewritten:
        conv = network.get_submodule(decision.name)
        factors[decision.name] = factorize_svd(conv.weight, conv.bias, order, decision.form.rank)
    small = rewritten(network, SeparateConvolutions(factors))
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
    plan = plan_uniform(network, rank=3, form="pw-dw")
    assert plan["0"].form == Keep()
    # per output pixel: 4 * (3*4*4) + 3*4*9 = 300 against 4*4*9 = 144
    assert plan["0"].reason == "cost would rise: 2.08x the multiply-adds as pw-dw at rank 3"
    allowed = plan_uniform(network, rank=3, form="pw-dw", allow_costlier=True)
    assert allowed["0"].form == Separate("pw-dw", 3)


def test_keep_patterns_and_filter():
    network = fx.symbolic_trace(seeded(Plain()))
    assert plan_uniform(network, keep=["*1"])["conv1"].reason == "asked to keep '*1'"
    plan = plan_uniform(network, filter_fn=lambda module, name: module.stride == (1, 1))
    assert [d.name for d in plan.rewritten] == ["conv1"]
    assert plan["conv2"].reason == "asked to keep it"
    with pytest.raises(PlanError, match="'layer9' matches no convolution"):
        plan_uniform(network, keep=["layer9"])


def test_layers_of_lower_full_rank_take_theirs():
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(32, 2, 3), nn.Conv2d(2, 32, 3)))
    plan = plan_uniform(network, rank=5, allow_costlier=True)
    assert (plan["0"].form.rank, plan["1"].form.rank) == (2, 5)
    assert "exact" in plan["0"].reason
    assert plan["0"].error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rank=0), "rank 0 is too low"),
        (dict(rank=10), "rank 10 is too high: 9 already"),
        (dict(form="pw"), "form 'pw' is not known"),
    ],
)
def test_bad_requests(options, message):
    with pytest.raises(UsageError, match=message):
        plan_uniform(fx.symbolic_trace(seeded(Plain(16))), **options)
