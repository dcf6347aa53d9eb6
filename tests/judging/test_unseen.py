"""What convert says of its own result: on images that had no part in it, or not at all."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Plain, images, seeded
from options import grouped
from shells import shell  # noqa: F401 (a fixture)
from torch import nn

import sepify
from sepify.errors import FidelityWarning, InputError, UntrainedWarning, UsageError
from sepify.formats.torchscript_read import load_torchscript
from sepify.formats.torchscript_write import save_torchscript
from sepify.judging.heldout import held_out, image_marks, not_held_out
from sepify.measuring import load_report

QUICK = sepify.Refinement(steps=10, batch=16)
OTHERS = {
    "refined": {"refine": QUICK},
    "svd": {"method": "svd"},
    "budget": {"budget": sepify.Budget(macs=0.6), "refine": QUICK},
    "thinned": {"width": 0.5, "method": "svd"},
    "mobilenet": {"style": "mobilenet", "refine": False},
}


def quietly(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sepify.convert(model, **grouped(options))


def with_others_held_out(data):
    """`data`, in which the images that convert holds out are quite different ones."""
    count = len(data) // 8
    below = float(image_marks((data,)).sort().values[count])
    strange = 30 * images(40 * count, seed=9) + 5
    strange = held_out(strange, below)[:count]
    rest = not_held_out(data, below)
    assert len(strange) == count
    changed = data.clone()
    changed[~rest] = strange
    return changed


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_held_out_images_have_no_part_in_the_conversion(options):
    model, data = seeded(Plain(16)), images(160)
    one = quietly(model, calibration=data, **options)
    other = quietly(model, calibration=with_others_held_out(data), **options)
    assert one.meta["sepify"].plan == other.meta["sepify"].plan
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())
    fitted = quietly(model, calibration=data, holdout=0, **options).state_dict()
    if options.get("method") != "svd" or "width" in options:
        state = one.state_dict()
        alike = [key in fitted and torch.equal(value, fitted[key]) for key, value in state.items()]
        assert not all(alike)
    assert one.meta["sepify"].fidelity != other.meta["sepify"].fidelity


@torch.no_grad()
def test_fidelity_is_that_on_the_images_held_out():
    model, data = seeded(Plain(16)).train(), images(200)
    small = quietly(model, calibration=[data[:90], data[90:]], refine=False)
    assert model.training
    assert small.training
    made = small.meta["sepify"]
    unseen = held_out(data, made.plan.heldout)
    assert made.fidelity.inputs == len(unseen) == 25
    wanted, given = model.eval()(unseen), small.eval()(unseen)
    same = float((wanted.argmax(1) == given.argmax(1)).float().mean())
    assert made.fidelity.agreement.value == pytest.approx(same)
    error = float((wanted - given).square().sum() / wanted.square().sum())
    assert made.fidelity.relative_error == pytest.approx(error, rel=1e-4)


def test_too_few_images_no_images_and_none_wanted_claim_nothing():
    model = seeded(Plain(16))
    with pytest.warns(FidelityWarning, match=r"No fidelity is claimed: 32 different images"):
        few = sepify.convert(model, calibration=images(32), solver=sepify.Solver(refine=False))
    with pytest.warns(FidelityWarning, match="no images were given"):
        blind = sepify.convert(model, solver=sepify.Solver(method="svd"))
    options = dict(rank=4, keep=["conv1"], calibration=images(128), refine=False, holdout=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FidelityWarning)
        unwanted = sepify.convert(model, **grouped(options))
        exact = sepify.convert(model, rank=None)
    for small in (few, blind, unwanted, exact):
        assert small.meta["sepify"].fidelity is None
        assert small.meta["sepify"].plan.heldout is None
    assert "switched off" in unwanted.meta["sepify"].unjudged
    assert exact.meta["sepify"].warnings == ()


@pytest.mark.parametrize("holdout", [-1, 160, "8", True])
def test_bad_shares(holdout):
    with pytest.raises(UsageError, match="holdout"):
        sepify.convert(
            seeded(Plain()), calibration=images(160), solver=sepify.Solver(holdout=holdout)
        )


def test_holding_out_needs_images_and_leaves_enough():
    with pytest.raises(UsageError, match="part of the calibration images"):
        sepify.convert(seeded(Plain()), solver=sepify.Solver(method="svd", holdout=0.1))
    with pytest.raises(InputError, match="too few: least squares needs"):
        sepify.convert(seeded(Plain()), calibration=images(64), solver=sepify.Solver(holdout=60))


def test_a_ruined_network_is_handed_over_with_a_warning():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 7, 2, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 64, 50)).eval()
    with pytest.warns(FidelityWarning) as told:
        small = sepify.convert(
            model, calibration=images(64, size=16), solver=sepify.Solver(refine=False)
        )
    said = [str(each.message) for each in told if each.category is FidelityWarning]
    assert said == list(small.meta["sepify"].warnings)
    assert "top-1 answer on only" in said[0]
    assert "8 held-out images" in said[0]
    assert any("'0'" in each and "order of the signal" in each for each in said)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FidelityWarning)
        near = dict(plan=sepify.plan(model, rank=16, keep=["0"]), refine=False)
        good = sepify.convert(model, calibration=images(128, size=16), **grouped(near))
        assert good.meta["sepify"].warnings == ()
        with pytest.warns(UntrainedWarning):  # and that alone
            sepify.convert(
                model,
                architecture=sepify.Architecture(style="mobilenet"),
                calibration=images(64, size=16),
                solver=sepify.Solver(refine=False),
            )


def test_a_plan_is_chosen_apart_from_what_judges_the_conversion(tmp_path):
    model, data = seeded(Plain(16)), images(160)
    plan = sepify.plan(model, budget=sepify.Budget(macs=0.6), calibration=data)
    sepify.save_plan(plan, tmp_path / "plan.json")
    plan = sepify.load_plan(tmp_path / "plan.json")
    same = quietly(model, plan=plan, calibration=data, refine=False).meta["sepify"]
    at_once = quietly(model, budget=sepify.Budget(macs=0.6), calibration=data, refine=False)
    assert same.plan.heldout == plan.heldout == at_once.meta["sepify"].plan.heldout
    assert same.fidelity == at_once.meta["sepify"].fidelity
    # fewer, more and other images: none that the plan was chosen by may judge
    for given in (data[:100], torch.cat([data, images(900, seed=5)])):
        made = quietly(model, plan=plan, calibration=given, refine=False).meta["sepify"]
        judges = held_out(given, made.plan.heldout)
        assert made.fidelity.inputs == len(judges)
        assert bool((image_marks((judges,)) < plan.heldout).all())
    blind = sepify.plan(model, budget=sepify.Budget(macs=0.6), calibration=data, holdout=0)
    with pytest.warns(FidelityWarning, match="does not say which images it was chosen by"):
        made = sepify.convert(
            model, plan=blind, calibration=data, solver=sepify.Solver(refine=False)
        ).meta["sepify"]
    assert made.fidelity is None


def test_labelled_images_that_judge_are_not_planned_by():
    model, data = seeded(Plain(16)), images(320)
    labels = model(data).argmax(1)

    def planned(labels: torch.Tensor) -> sepify.Plan:
        budget = sepify.Budget(accuracy_drop=20.0, labelled=(data, labels))
        return sepify.plan(model, budget=budget, calibration=data)

    one = planned(labels)
    wrong = labels.clone()
    rest = not_held_out(data, one.heldout)
    wrong[~rest] = (wrong[~rest] + 1) % 5  # of images that are to judge the conversion
    assert planned(wrong) == one


def test_the_shell_reports_on_held_out_images_and_says_so(shell):  # noqa: F811
    np.save("x.npy", images(128).numpy())
    options = ("--calibration", "x.npy", "--method", "svd")
    done = shell("convert", "model.pt", "-o", "small.pt", *options, "--json")
    facts = json.loads(done.out)
    report = load_report("small.report.json")
    assert report.fidelity.inputs == facts["fidelity"]["inputs"] == 16
    assert report.judged_on.startswith("held out")
    assert list(report.warnings) == facts["warnings"] != []
    assert done.err.count("warning:") == len(facts["warnings"])
    assert "Warning:" in Path("small.report.html").read_text()
    again = shell("report", "model.pt", "small.pt", "--calibration", "x.npy", "--target", "none")
    assert "Fidelity on 16 inputs (held out: used for nothing else)" in " ".join(again.out.split())
    few = shell("convert", "model.pt", "-o", "few.pt", *options, "--holdout", "0")
    assert few.code == 0
    assert load_report("few.report.json").fidelity is None
    told = shell("report", "model.pt", "few.pt", "--calibration", "x.npy", "--target", "none")
    assert "may have been fitted to" in " ".join(told.out.split())
    blind = shell("convert", "model.pt", "-o", "blind.pt", "--method", "svd", "--json")
    (sentence,) = json.loads(blind.out)["warnings"]
    assert "no images were given" in sentence
    assert load_report("blind.report.json").warnings == (sentence,)


def test_half_precision_keeps_the_same_images(shell):  # noqa: F811
    half = torch.jit.trace(seeded(Plain(16)).half(), images().half(), check_trace=False)
    save_torchscript(half, "half.pt", [(1, 3, 12, 12)])
    np.save("x.npy", images(128).numpy())
    options = ("--method", "svd", "--calibration", "x.npy", "--dtype", "float16", "--json")
    done = shell("convert", "half.pt", "-o", "small.pt", *options)
    assert done.code == 0, done.err
    report = load_report("small.report.json")
    assert report.fidelity.inputs == json.loads(done.out)["fidelity"]["inputs"] == 16
    assert report.judged_on.startswith("held out")


def test_mirror_images_of_what_judges_are_not_fitted_to(shell):  # noqa: F811
    data = images(128)
    np.save("x.npy", data.numpy())
    for name in ("one", "other"):
        options = ("--calibration", "x.npy", "--mirror", "--method", "svd", "--no-report")
        assert shell("convert", "model.pt", "-o", f"{name}.pt", *options).code == 0
        np.save("x.npy", with_others_held_out(data).numpy())
    one, other = (load_torchscript(f"{name}.pt").module.state_dict() for name in ("one", "other"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_distillation_does_not_learn_from_what_judges(shell):  # noqa: F811
    data = images(128)
    options = ("--calibration", "x.npy", "--method", "svd", "--distill", "x.npy", "--epochs", "1")
    states = []
    for name in ("one", "other"):
        np.save("x.npy", data.numpy())
        done = shell("convert", "model.pt", "-o", f"{name}.pt", *options, "--json")
        assert done.code == 0, done.err
        states.append(load_torchscript(f"{name}.pt").module.state_dict())
        facts = json.loads(done.out)
        report = load_report(f"{name}.report.json")
        assert facts["fidelity"]["inputs"] == report.fidelity.inputs == 16
        assert facts["fidelity"]["sqnr"] == pytest.approx(report.fidelity.sqnr)
        data = with_others_held_out(data)
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_distilling_in_python_takes_the_claims_back():
    model, data = seeded(Plain(16)), images(160)
    small = quietly(model, calibration=data, refine=False)
    below = small.meta["sepify"].plan.heldout
    options = dict(teacher=model, epochs=1, losses=sepify.Losses(layers=0.0))
    taught = sepify.distill(small, data=data, **options).meta["sepify"]
    assert (taught.fidelity, taught.plan.heldout) == (None, None)
    apart = sepify.distill(small, data=data[not_held_out(data, below)], **options).meta["sepify"]
    assert (apart.fidelity, apart.plan.heldout) == (None, below)
    assert small.meta["sepify"].fidelity is not None


def test_a_network_whose_outputs_cannot_be_compared_says_so():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            y = self.conv(x)
            return (y > y.mean()).nonzero()

    with pytest.warns(FidelityWarning, match="cannot be measured on this network's outputs"):
        small = sepify.convert(
            seeded(Rows()), calibration=images(64), solver=sepify.Solver(refine=False)
        )
    assert small.meta["sepify"].fidelity is None
