"""Style "mobilenet": depthwise, BatchNorm, ReLU, pointwise, BatchNorm, ReLU."""

import pickle
import warnings
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from nets import Plain, Residual, images, relative_error, seeded
from options import grouped
from torch import nn

import sepify
from sepify.capture import capture
from sepify.distilling.taps import comparable_layers
from sepify.errors import PlanError, UntrainedWarning, UsageError

QUICK = sepify.Refinement(steps=10, batch=16)
STYLES = {"mobilenet": nn.ReLU, "mobilenet-relu6": nn.ReLU6}


def converted(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        usual = dict(style="mobilenet", calibration=images(64), holdout=0)
        if "method" not in options:
            usual["refine"] = QUICK
        options = usual | options
        return sepify.convert(model, **grouped(options))


def calls(network):
    return [str(node.target) for node in network.graph.nodes if node.op == "call_module"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("rank", [1, 2])
@torch.no_grad()
def test_the_block_of_the_paper(style, rank):
    small = converted(seeded(Plain()), style=style, rank=rank)
    roles = ("depthwise", "depthwise_bn", "depthwise_act", "pointwise")
    block = [f"conv2.{role}" for role in roles]
    assert calls(small)[5:10] == [*block, "bn2"]
    assert isinstance(small.conv2.depthwise_act, STYLES[style])
    assert small.conv2.depthwise_bn.num_features == 8 * rank
    assert small.conv2.pointwise.bias is None  # a bias before BatchNorm is part of that
    plan = small.meta["sepify"].plan
    assert plan.style == style
    assert plan["conv2"].after.params == 8 * rank * (9 + 16 + 2)


@torch.no_grad()
def test_the_start_is_about_as_near_as_without_the_relu():
    model, unseen = seeded(Residual(12)), images(64, seed=5)
    options = dict(keep=["stem"], refine=False)
    linear = converted(model, style="linear", form="dw-pw", **options)
    relu = converted(model, **options)
    blind = converted(model, calibration=None, method="svd", refine=True, keep=["stem"])
    wanted = model(unseen)

    def error(network):
        return float((network(unseen) - wanted).square().mean())

    assert error(relu) < 1.2 * error(linear)
    assert error(relu) < 0.7 * error(blind)


@torch.no_grad()
def test_the_new_batchnorm_holds_true_statistics():
    model, seen = seeded(Plain()), images(64)
    small = converted(model)
    inputs = []
    small.conv2.depthwise_bn.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    small(seen)
    rows = inputs[0].transpose(0, 1).flatten(1)
    norm = small.conv2.depthwise_bn
    torch.testing.assert_close(norm.running_mean, rows.mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, rows.var(1, correction=0), rtol=1e-3, atol=1e-4)


def test_without_training_it_warns_and_linear_does_not():
    with pytest.warns(UntrainedWarning, match=r"style 'mobilenet-relu6'.*sepify\.distill"):
        sepify.convert(
            seeded(Plain()),
            architecture=sepify.Architecture(style="mobilenet-relu6"),
            solver=sepify.Solver(method="svd"),
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntrainedWarning)
        sepify.convert(seeded(Plain()), solver=sepify.Solver(method="svd"))


class Bare(nn.Module):
    """No BatchNorm anywhere, and no activation between the last two convolutions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = x + self.second(x)  # a residual sum stays linear
        return self.last(self.third(x))


@torch.no_grad()
def test_what_is_missing_is_added_and_outputs_are_left_free():
    model = seeded(Bare())
    small = converted(model, refine=False)
    added = {name for name in calls(small) if name.endswith(("pointwise_bn", "pointwise_act"))}
    norms = {"first.pointwise_bn", "second.pointwise_bn", "third.pointwise_bn"}
    assert added == {*norms, "third.pointwise_act"}
    assert small.last.pointwise.bias is not None
    assert float(small(images(64)).min()) < 0


def test_the_block_trains_scripts_exports_and_pickles():
    small = converted(seeded(Residual()), rank=2)
    x = images(3)
    wanted = small(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert relative_error(torch.jit.script(small)(x), wanted) < 1e-6
    assert torch.equal(pickle.loads(pickle.dumps(small))(x), wanted)
    program = torch.export.export(small, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    assert relative_error(program.module()(images(5)), small(images(5))) < 1e-5
    small.train()(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


@torch.no_grad()
def test_shared_and_tied_convolutions():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)
            self.tied = nn.Conv2d(4, 4, 3, padding=1)
            self.tied.weight = self.conv.weight

        def forward(self, x):
            return self.tied(torch.relu(self.conv(torch.relu(self.conv(x)))))

    small = converted(seeded(Shared()), calibration=images(64, 4), refine=False)
    assert calls(small).count("conv.depthwise_bn") == 2
    assert small.conv.depthwise.weight is small.tied.depthwise.weight
    assert small.conv.pointwise.weight is small.tied.pointwise.weight


@torch.no_grad()
def test_a_plan_file_carries_the_style(tmp_path):
    model = seeded(Plain())
    first = converted(model)
    path = tmp_path / "plan.json"
    sepify.save_plan(first.meta["sepify"].plan, path)
    again = converted(model, style=None, plan=sepify.load_plan(path))
    assert all(
        torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items()
    )
    sepify.save_model(first, tmp_path / "small.safetensors", images())
    loaded = sepify.load_weights(seeded(Plain(), seed=9), path, tmp_path / "small.safetensors")
    assert torch.equal(loaded(images()), first(images()))


def test_contradictions():
    model = seeded(Plain())
    with pytest.raises(UsageError, match="style 'tiny' is not known"):
        sepify.convert(
            model,
            architecture=sepify.Architecture(style="tiny"),
            solver=sepify.Solver(method="svd"),
        )
    with pytest.raises(UsageError, match="depthwise first"):
        sepify.convert(
            model,
            architecture=sepify.Architecture(style="mobilenet", form="pw-dw"),
            solver=sepify.Solver(method="svd"),
        )
    linear = sepify.plan(model, architecture=sepify.Architecture(form="pw-dw"))
    with pytest.raises(UsageError, match="contradicts the plan, which says 'linear'"):
        sepify.convert(
            model,
            plan=linear,
            architecture=sepify.Architecture(style="mobilenet"),
            solver=sepify.Solver(method="svd"),
        )
    with pytest.raises(PlanError, match="'conv1': style 'mobilenet' is depthwise first"):
        sepify.convert(
            model, plan=replace(linear, style="mobilenet"), solver=sepify.Solver(method="svd")
        )


def test_a_budget_chooses_among_what_the_style_allows():
    small = converted(seeded(Plain(16)), budget=sepify.Budget(params=0.5))
    plan = small.meta["sepify"].plan
    assert {decision.form.order for decision in plan.rewritten} == {"dw-pw"}
    assert sum(d.after.params for d in plan) <= 0.5 * sum(d.before.params for d in plan)


def matched(small, model):
    x = (images(2),)
    layers = comparable_layers(small, capture(model).graph_module, x, x)
    return {name: [(s.target, t.target) for s, t in calls] for name, calls in layers.items()}


def test_layers_are_matched_where_both_networks_mean_the_same():
    model, data = seeded(Plain(16)), images(64)
    small = converted(model)
    assert matched(small, model) == {"conv1": [("bn1", "bn1")], "conv2": [("bn2", "bn2")]}
    bare = seeded(Bare())
    layers = matched(converted(bare, refine=False), bare)
    assert layers["first"] == [("first.pointwise_bn", "first")]
    assert layers["last"] == [("last.pointwise", "last")]
    pair = sepify.DistillationPair(small, model, data).eval()
    blind = converted(model, calibration=None, method="svd")
    worse = sepify.DistillationPair(blind, model, data).eval()
    assert pair.parts(data)["layers"] < worse.parts(data)["layers"]


@pytest.mark.skipif(find_spec("torch_pruning") is None, reason="needs the extra 'width'")
def test_a_thinned_student_matches_only_layers_of_as_many_channels():
    model = seeded(Plain(16))
    assert matched(converted(model, width=0.5), model) == {}


@pytest.mark.skipif(find_spec("tvm") is None, reason="needs the extra 'tvm'")
@pytest.mark.parametrize("style", STYLES)
@torch.no_grad()
def test_a_block_compiles_to_one_kernel(style):
    x = images(1, size=16)
    small = converted(seeded(Plain(16)), style=style, rank=2, refine=False)
    compiled = sepify.compile(small, x)
    assert compiled.metadata.own_kernels["separable"] == 2
    assert relative_error(compiled(x), small(x)) < 1e-5


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".onnx"])
@torch.no_grad()
def test_every_saved_form_takes_it(suffix, tmp_path):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    small = converted(seeded(Plain()), style="mobilenet-relu6", refine=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        sepify.save_model(small, tmp_path / f"small{suffix}", images())  # checks what it wrote
    assert (tmp_path / f"small{suffix}").is_file()
