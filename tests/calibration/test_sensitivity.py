import pytest
import torch
from nets import Plain, Residual, images, rewritten, seeded
from torch import fx, nn
from torch.nn import functional as F

from sepify.calibration.candidates import refine_solved, solve_alone, solve_around
from sepify.calibration.output_loss import TEMPERATURE, OutputLoss, choose_loss
from sepify.calibration.refine import Refinement
from sepify.calibration.sensitivity import (
    Replay,
    estimate_damage,
    measure_damage,
    original_outputs,
)
from sepify.factorize.factors import run_factors
from sepify.factorize.svd import factorize_svd
from sepify.graph.batches import calibration_batches
from sepify.passes.out_of_place import MakeOutOfPlace
from sepify.plans.chains import Bottleneck, Spatial
from sepify.plans.forms import Separate


def quiet(_what, _done, _total):
    pass


class Scalar(nn.Module):
    """Linear, one number an image: there the second order is everything, and no sign is random."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 4, 3, stride=2, bias=False)

    def forward(self, x):
        return self.second(self.first(x)).mean((1, 2, 3), keepdim=True)


class Twice(nn.Module):
    """One convolution, called twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(torch.relu(self.conv(x))).mean((1, 2, 3), keepdim=True)


def ready(network) -> fx.GraphModule:
    return (
        rewritten(fx.symbolic_trace(seeded(network)), MakeOutOfPlace()).eval().requires_grad_(False)
    )


def svd_candidates(network: fx.GraphModule, ranks=(1, 2, 3)):
    convs = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    return {
        name: [factorize_svd(conv.weight, conv.bias, "dw-pw", rank) for rank in ranks]
        for name, conv in convs.items()
    }


def test_the_estimate_is_exact_where_the_network_is_linear():
    network, batches = ready(Scalar()), calibration_batches(images(48))
    wanted = original_outputs(network, batches)
    loss = choose_loss(wanted)
    assert loss.kind == "relative"
    candidates = svd_candidates(network)
    estimated = estimate_damage(network, candidates, batches, loss, quiet)
    base, measured = measure_damage(network, {}, candidates, batches, wanted, loss, quiet)
    assert base == 0
    for name in ("first", "second"):
        assert estimated[name] == pytest.approx(measured[name], rel=1e-4)
        assert measured[name][0] > measured[name][2] > 0


def test_a_small_change_of_a_classifier_is_estimated_well():
    network, batches = ready(Plain(16)), calibration_batches(images(256))
    wanted = original_outputs(network, batches)
    loss = choose_loss(wanted)
    assert loss.kind == "kl"
    convs = {name: network.get_submodule(name) for name in ("conv1", "conv2")}
    bias = torch.zeros(16)
    candidates = {
        "conv1": [factorize_svd(convs["conv1"].weight * 1.05, bias, "dw-pw", 9)],
        "conv2": [factorize_svd(convs["conv2"].weight * 1.05, convs["conv2"].bias, "dw-pw", 9)],
    }
    draws = [estimate_damage(network, candidates, batches, loss, quiet, s) for s in range(8)]
    _, measured = measure_damage(network, {}, candidates, batches, wanted, loss, quiet)
    for name, values in measured.items():
        mean = sum(draw[name][0] for draw in draws) / len(draws)
        assert mean == pytest.approx(values[0], rel=0.25)


def test_a_convolution_called_twice_counts_twice():
    network, batches = ready(Twice()), calibration_batches(images(64))
    wanted = original_outputs(network, batches)
    loss = choose_loss(wanted)
    conv = network.get_submodule("conv")
    nearly = factorize_svd(conv.weight * 1.001, conv.bias * 1.001, "dw-pw", 3)
    candidates = {"conv": [nearly]}
    (estimated,) = estimate_damage(network, candidates, batches, loss, quiet)["conv"]
    _, measured = measure_damage(network, {}, candidates, batches, wanted, loss, quiet)
    assert estimated == pytest.approx(measured["conv"][0], rel=0.05)


def test_measuring_around_a_plan_replaces_one_layer_and_leaves_the_others():
    network, batches = ready(Residual()), calibration_batches(images(32))
    wanted = original_outputs(network, batches)
    loss = choose_loss(wanted)
    candidates = svd_candidates(network, ranks=(1, 2))
    base = {name: values[0] for name, values in candidates.items()}
    whole, changed = measure_damage(
        network, base, {"conv1": [candidates["conv1"][1], None]}, batches, wanted, loss, quiet
    )
    for index, instead in enumerate((candidates["conv1"][1], None)):
        trial = {name: value for name, value in base.items() if name != "conv1"}
        if instead is not None:
            trial["conv1"] = instead
        alone, _ = measure_damage(network, trial, {}, batches, wanted, loss, quiet)
        assert changed["conv1"][index] == pytest.approx(alone, rel=1e-5)
        assert alone != pytest.approx(whole, rel=1e-3)


def test_replay_answers_as_the_network_does():
    network, x = ready(Residual()), images(4)
    replay = Replay(network)
    (given,) = replay.outputs(replay.start((x,)), 0, {})
    assert torch.equal(given, network(x))


def test_candidates_are_solved_from_one_pass_and_beat_the_svd():
    network = ready(Plain(16))
    batches = calibration_batches(F.avg_pool2d(images(64, size=16), 5, 1))  # with correlations
    forms = {"conv1": [Separate("dw-pw", 1), Separate("pw-dw", 1)], "conv2": [Separate("dw-pw", 2)]}
    calls = []
    network.get_submodule("conv1").register_forward_hook(lambda *_: calls.append(1))
    solved = solve_alone(network, forms, batches, quiet)
    assert len(calls) == len(batches)
    x = batches[0][0]
    conv = network.get_submodule("conv1")
    assert {name: list(found) for name, found in solved.items()} == forms
    for form, factors in solved["conv1"].items():
        assert (factors.order, factors.rank) == (form.order, form.rank)
        plain = factorize_svd(conv.weight, conv.bias, form.order, form.rank)
        errors = [(run_factors(f, conv, x) - conv(x)).square().sum() for f in (factors, plain)]
        assert errors[0] < errors[1]


def test_solving_around_a_plan_gives_its_factors_and_the_alternatives():
    network, batches = ready(Plain(16)), calibration_batches(images(64))
    chosen = {"conv1": Separate("dw-pw", 2), "conv2": Separate("dw-pw", 1)}
    factors, others = solve_around(
        network, chosen, {"conv2": [Separate("dw-pw", 3)]}, batches, quiet
    )
    assert {name: f.rank for name, f in factors.items()} == {"conv1": 2, "conv2": 1}
    assert [f.rank for f in others["conv2"]] == [3]
    assert others["conv1"] == []
    options = Refinement(steps=20, batch=16)
    refined = refine_solved(network, factors, batches, options, quiet)
    wanted = original_outputs(network, batches)
    loss = choose_loss(wanted)
    lost = [
        measure_damage(network, each, {}, batches, wanted, loss, quiet)[0]
        for each in (factors, refined)
    ]
    assert lost[1] < lost[0]


def test_cotangents_have_the_hessian_of_the_divergence_as_covariance():
    logits = torch.tensor([2.0, 0.0, -1.0]).repeat(20_000, 1)
    p = (logits[0] / TEMPERATURE).softmax(0)
    (v,) = OutputLoss("kl").cotangents((logits,), torch.Generator().manual_seed(0))
    hessian = p.diag() - p[:, None] * p
    assert torch.allclose(v.T @ v / len(v), hessian, atol=3e-3)


def test_divergence_and_relative_error_of_each_image():
    y = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0]])
    z = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    p, q = (y[0] / TEMPERATURE).softmax(0), (z[0] / TEMPERATURE).softmax(0)
    loss = OutputLoss("kl").per_image((y,), (z,))
    softened = TEMPERATURE**2 * float((p * (p / q).log()).sum())
    assert loss.tolist() == pytest.approx([softened, 0.0], abs=1e-5)
    relative = OutputLoss("relative", (4.0,)).per_image((y,), (z,))
    assert relative.tolist() == pytest.approx([2 / 4, 0.0])


def test_a_family_that_loses_far_more_at_equal_cost_is_left_out():
    network = ready(Plain(16))
    batches = calibration_batches(F.avg_pool2d(images(64, size=16), 5, 1))
    forms = {"conv2": [Separate("dw-pw", 2), Bottleneck(4), Bottleneck(8), Spatial(2)]}
    scouts = {"conv2": [Bottleneck(24), Spatial(1), Separate("dw-pw", 1)]}
    solved = solve_alone(network, forms, batches, quiet, scouts)
    assert list(solved["conv2"]) == [Separate("dw-pw", 2), Bottleneck(4), Bottleneck(8)]
