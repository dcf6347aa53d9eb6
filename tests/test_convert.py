import copy
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from nets import Plain, Residual, images, relative_error, seeded
from options import grouped
from torch import fx, nn

import sepify
from sepify.errors import ConversionError, InputError, UsageError
from sepify.graph.sound import verify_conversion
from sepify.plans.forms import ORDERS

QUICK = sepify.Refinement(steps=10, batch=16)


def as_module(network):
    return network


def as_graph(network):
    return fx.symbolic_trace(network)


def as_script(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(network)


def as_trace(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network, images())


def as_frozen(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.script(network))


FORMS = [as_module, as_graph, as_script, as_trace, as_frozen]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", [Plain, Residual])
@torch.no_grad()
def test_full_rank_is_the_same_function_in_every_form(network, form, order):
    model = form(seeded(network()))
    plan = sepify.plan(
        model, images(), rank=None, architecture=sepify.Architecture(form=order, costlier=True)
    )
    small = sepify.convert(model, plan=plan, example_inputs=images())
    assert len(plan.rewritten) >= 2
    assert all("depthwise" in str(small.get_submodule(d.name)) for d in plan.rewritten)
    x = images(3, size=16)  # another batch and another size
    assert relative_error(small(x), model(x)) < 1e-5


def test_the_model_is_never_changed_and_the_rest_keeps_its_keys():
    model = seeded(Residual())
    before = copy.deepcopy(model.state_dict())
    small = sepify.convert(
        model, rank=2, calibration=images(32), solver=sepify.Solver(refine=QUICK), keep=["stem"]
    )
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    untouched = {key for key in before if key.split(".")[0] not in ("conv1", "conv2")}
    assert untouched < set(small.state_dict())
    assert all(torch.equal(before[key], small.state_dict()[key]) for key in untouched)


def test_weights_alone_need_neither_data_nor_shapes():
    small = sepify.convert(seeded(Plain()), solver=sepify.Solver(method="svd"))
    plan = small.meta["sepify"].plan
    assert plan.method == "svd"
    assert not plan.batchnorm
    assert [d.form.rank for d in plan] == [1, 1]
    assert plan["conv1"].before.macs is None
    assert small(images()).shape == (4, 5)


@pytest.mark.parametrize("options", [{}, {"rank": 2}, {"form": "pw-dw"}, {"style": "mobilenet"}])
def test_without_images_a_loss_has_to_be_asked_for(options):
    model = seeded(Plain(16))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match="give calibration images .*or ask for it with method"):
        sepify.convert(model, example_inputs=images(), **grouped(options))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    plan = sepify.plan(model, images(), **grouped(options))  # may be made, to be looked at
    with pytest.raises(UsageError, match="give calibration images"):
        sepify.convert(model, plan=plan, example_inputs=images())
    asked = replace(plan, method="svd")
    assert sepify.convert(model, plan=asked).meta["sepify"].plan.method == "svd"


@torch.no_grad()
def test_without_images_nothing_lost_need_not_be_asked_for():
    model = seeded(Plain())
    exact = sepify.convert(model, rank=None)
    assert relative_error(exact(images()), model(images())) < 1e-5
    kept = sepify.convert(model, keep=["conv*"])
    assert torch.equal(kept(images()), model(images()))


@torch.no_grad()
def test_svd_with_calibration_reestimates_batchnorm():
    model = seeded(Plain())
    small = sepify.convert(model, calibration=images(16), solver=sepify.Solver(method="svd"))
    assert small.meta["sepify"].plan.batchnorm
    assert not torch.equal(small.bn1.running_mean, model.bn1.running_mean)


@torch.no_grad()
def test_each_solver_is_closer_than_the_one_before():
    model, unseen = seeded(Residual(12)), images(64, seed=5)
    options = dict(keep=["stem"], calibration=images(128))

    def error(**more):
        return relative_error(
            sepify.convert(model, **options, solver=sepify.Solver(**more))(unseen), model(unseen)
        )

    svd, solved = error(method="svd"), error(refine=False)
    refined = error(refine=sepify.Refinement(steps=75, batch=32))
    assert refined < solved < svd


@pytest.mark.parametrize("method", ["svd", "least-squares"])
def test_a_plan_makes_the_same_conversion_again(method, tmp_path):
    model = seeded(Plain())
    options = dict(calibration=images(32), refine=QUICK if method == "least-squares" else True)
    first = sepify.convert(model, rank=2, **grouped(options, form="pw-dw", method=method))
    sepify.save_plan(first.meta["sepify"].plan, tmp_path / "plan.json")
    plan = sepify.load_plan(tmp_path / "plan.json")
    again = sepify.convert(model, plan=plan, **grouped(options))
    assert again.code == first.code
    assert again.meta["sepify"].plan == first.meta["sepify"].plan
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_the_result_is_an_ordinary_graph_module():
    model = seeded(Residual()).train()
    small = sepify.convert(model, keep=["stem"], solver=sepify.Solver(method="svd"))
    assert isinstance(small, fx.GraphModule)
    assert small.training
    small(images()).sum().backward()
    loaded = pickle.loads(pickle.dumps(small.eval()))
    assert torch.equal(loaded(images()), small(images()))
    given_as_graph = sepify.convert(
        fx.symbolic_trace(seeded(Residual())), solver=sepify.Solver(method="svd")
    )
    assert torch.equal(
        pickle.loads(pickle.dumps(given_as_graph))(images()), given_as_graph(images())
    )
    copied = copy.deepcopy(small)
    assert copied.meta["sepify"].plan == small.meta["sepify"].plan


def test_progress_reaches_the_end():
    seen = []
    sepify.convert(
        seeded(Plain()),
        calibration=images(32),
        solver=sepify.Solver(refine=False),
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    assert seen[0] == ("solving conv1", 0, 2)
    assert seen[-1][1] == seen[-1][2] == 2


def test_nothing_to_do():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 2))
    small = sepify.convert(model, calibration=images(32))
    assert small.meta["sepify"].plan.decisions == ()
    assert torch.equal(small(images()), model(images()))


def with_nan(model):
    with torch.no_grad():
        model.bn1.running_var[0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (Plain(), dict(rank=0), UsageError, "too low"),
        (Plain(), dict(rank=99), UsageError, "too high"),
        (Plain(), dict(method="magic"), UsageError, "'magic' is not known"),
        (Plain(), dict(method="least-squares"), UsageError, "needs data"),
        (Plain(), dict(calibration=images(4)), InputError, "4 calibration images are too few"),
        (Plain(), dict(calibration=images(32, channels=4)), InputError, "4"),
        (Plain(), dict(example_inputs=images(2, channels=1)), InputError, "1"),
        (with_nan(Plain()), dict(), ConversionError, "'bn1.running_var' holds NaN"),
    ],
)
def test_bad_requests(model, options, error, message):
    with pytest.raises(error, match=message):
        sepify.convert(model.eval(), **grouped(options))


def test_importing_sepify_loads_neither_tvm_nor_a_plotting_library():
    code = "import sys, sepify; print([m for m in ('tvm', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class Points(nn.Module):
    """As many rows as there are positions above nought: what is found, not what is asked."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        y = self.conv(x)
        return y.mean((2, 3)), (y > 0).nonzero()


def test_outputs_whose_shape_follows_the_contents_may_have_another():
    network = seeded(Points())
    small = sepify.convert(network, example_inputs=images(), solver=sepify.Solver(method="svd"))
    (_, before), (_, after) = network(images()), small(images())
    assert before.shape != after.shape


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (nn.Conv2d(3, 3, 3), r"was \(4, 3, 12, 12\) torch.float32 and became \(4, 3, 10, 10\)"),
        (nn.Flatten(), r"became \(4, 432\)"),
        (nn.Threshold(9.0, float("nan")), "is not finite"),
    ],
)
def test_other_shapes_and_values_that_are_not_finite_are_no_conversion(after, message):
    before = nn.Conv2d(3, 3, 3, padding=1)
    verify_conversion(before, nn.Identity(), (images(),))
    with pytest.raises(ConversionError, match=message):
        verify_conversion(before, after, (images(),))


def test_each_layer_takes_the_form_that_loses_least_at_the_cost_of_the_rank():
    model, data = seeded(Residual(12)), images(128)
    options = dict(keep=["stem"], calibration=data, rank=1)
    solver = sepify.Solver(refine=False)
    best = sepify.convert(model, **options, solver=solver)
    only = sepify.convert(
        model, **options, solver=solver, architecture=sepify.Architecture(form="dw-pw")
    )
    chosen, same = (small.meta["sepify"].plan for small in (best, only))
    assert {d.form.family for d in same.rewritten} == {"dw-pw"}
    assert "bottleneck" in {d.form.family for d in chosen.rewritten}
    first = chosen.rewritten[0]
    assert first.heldout_error <= same[first.name].heldout_error
    assert "loses" in first.reason
    for decision in chosen.rewritten:
        assert decision.after.macs <= 1.05 * same[decision.name].after.macs
        assert (
            tuple(dict(best.get_submodule(decision.name).named_children())) == decision.form.parts
        )
    again = sepify.convert(model, plan=chosen, calibration=data, solver=solver)
    for key, value in best.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.parametrize("form", ["bottleneck", "spatial"])
def test_one_form_everywhere(form):
    model = seeded(Plain(16))
    small = sepify.convert(
        model,
        rank=2,
        calibration=images(64),
        architecture=sepify.Architecture(form=form),
        solver=sepify.Solver(refine=QUICK),
    )
    plan = small.meta["sepify"].plan
    assert {d.form.kind for d in plan.rewritten} == {form}
    assert all(d.block_error is not None for d in plan.rewritten)
    with pytest.raises(UsageError, match=r"order=... is now form="):
        sepify.Architecture(order="pw-dw")
