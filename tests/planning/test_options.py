"""An option beside a plan or a budget says the same, or is refused; none is ignored."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from nets import Plain, images, seeded
from options import grouped

import sepify
from sepify.cli import main
from sepify.errors import PlanError, UsageError
from sepify.formats.torchscript_write import save_torchscript
from sepify.plans.file import save_plan

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

X = images()
DATA = torch.randn(32, 3, 12, 12)


def model() -> torch.nn.Module:
    return seeded(Plain(channels=16))


def planned(**options: Any) -> sepify.Plan:
    return sepify.plan(model(), X, **grouped(options))


@pytest.mark.parametrize(
    "option",
    [
        {"rank": 2},
        {"rank": None},
        {"form": "pw-dw"},
        {"keep": ["conv2"]},
        {"keep": lambda _module, name: name == "conv2"},
        {"budget": sepify.Budget(macs=0.5)},
        {"style": "mobilenet"},
        {"width": 0.5},
        {"resolution": 0.5},
    ],
)
def test_an_option_that_contradicts_the_plan_is_refused(option: dict[str, Any]) -> None:
    plan = planned(rank=1)
    assert plan["conv2"].form.rewrites
    with pytest.raises(UsageError, match=next(iter(option))):
        sepify.convert(model(), plan=plan, example_inputs=X, **grouped(option, method="svd"))


def test_one_that_agrees_is_fine() -> None:
    plan = planned(rank=2, form="dw-pw", keep=["conv1"])
    options: dict[str, Any] = {"rank": 2, "form": "dw-pw", "keep": ["conv1"], "style": "linear"}
    small = sepify.convert(model(), plan=plan, example_inputs=X, **grouped(options, method="svd"))
    assert small.meta["sepify"].plan["conv2"].form.rank == 2


def test_a_pattern_that_matches_nothing_is_refused_beside_a_plan_too() -> None:
    with pytest.raises(PlanError, match="matches no convolution"):
        sepify.convert(
            model(),
            plan=planned(),
            solver=sepify.Solver(method="svd"),
            example_inputs=X,
            keep=["nothing.*"],
        )


@pytest.mark.parametrize("option", [{"rank": 1}, {"rank": None}, {"form": "dw-pw"}])
def test_a_budget_chooses_ranks_even_where_the_default_is_named(option: dict[str, Any]) -> None:
    budget = sepify.Budget(macs=0.9)
    with pytest.raises(UsageError, match="a budget chooses"):
        sepify.plan(model(), X, calibration=DATA, budget=budget, **grouped(option))
    with pytest.raises(UsageError, match="a budget chooses"):
        sepify.convert(model(), calibration=DATA, budget=budget, **grouped(option))


@pytest.mark.parametrize("option", [{"refine": sepify.Refinement()}, {"memory": 2**30}])
def test_what_only_least_squares_uses_is_refused_beside_svd(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="not for 'svd': leave it out"):
        sepify.convert(model(), example_inputs=X, **grouped(option, method="svd"))


def test_calibration_images_are_refused_beside_a_fixed_rank() -> None:
    with pytest.raises(UsageError, match="not for a fixed rank: leave them out"):
        planned(calibration=DATA)
    plan = sepify.plan(model(), calibration=DATA)
    assert any(decision.form.rewrites for decision in plan)  # an example input is among them


def test_what_only_a_budget_uses_is_refused_without_one() -> None:
    with pytest.raises(UsageError, match="leave them out"):
        planned(known=object())


@pytest.mark.parametrize(
    ("option", "new"),
    [
        ("filter_fn", "keep=function"),
        ("labelled", "budget=Budget"),
        ("farm", "budget=Budget"),
        ("order", "architecture=Architecture"),
        ("width", "architecture=Architecture"),
        ("method", "solver=Solver"),
        ("holdout", "solver=Solver"),
    ],
)
def test_an_old_spelling_is_refused_by_the_new_ones_name(option: str, new: str) -> None:
    with pytest.raises(UsageError, match=f"{option}=... is now {new}"):
        sepify.convert(model(), example_inputs=X, **{option: None})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--plan", "plan.json", "--rank", "2"], "rank 2 contradicts the plan"),
        (["--plan", "plan.json", "--form", "pw-dw"], "contradicts the plan"),
        (["--plan", "plan.json", "--keep", "conv2"], "contradicts the plan"),
        (["--epochs", "2"], "--epochs says nothing without --distill"),
        (["--augment", "mirror"], "--augment says nothing without --distill"),
        (["--resume"], "--resume says nothing without --distill"),
        (["--data", "x.npz", "--no-report"], "--data is for the report"),
        (["--memory", "2"], "--memory is for calibration images"),
        (["--preprocess", "size=12"], "--preprocess is for images"),
    ],
)
def test_so_at_the_shell(
    arguments: list[str],
    told: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_plan(planned(), tmp_path / "plan.json")
    save_torchscript(torch.jit.trace(model(), X), tmp_path / "model.pt", [(1, 3, 12, 12)])
    command = ["sepify", "convert", "model.pt", "-o", "small.pt", "--method", "svd", *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "small.pt").exists()
