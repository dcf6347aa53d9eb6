"""What sepify is given is never changed: not a bit of the model, of its classes, of the process."""

from __future__ import annotations

import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from snapshots import snapshot
from specimens import SPECIMENS, X, build
from torch import Tensor
from torch.export import ExportedProgram

import sepify
from sepify.capture import capture

IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def process() -> Any:
    """What belongs to the process."""
    return (
        *(random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()),
        *(torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        *(torch.are_deterministic_algorithms_enabled(), list(warnings.filters)),
        *(torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()),
    )


def plan(model: Any) -> object:
    return sepify.plan(model, X)


def convert_exactly(model: Any) -> object:
    return sepify.convert(model, rank=None, example_inputs=X)


def convert_by_svd(model: Any) -> object:
    return sepify.convert(
        model, solver=sepify.Solver(method="svd"), example_inputs=X, calibration=IMAGES
    )


def convert_on_data(model: Any) -> object:
    refinement = sepify.Refinement(steps=2)
    return sepify.convert(
        model, example_inputs=X, calibration=IMAGES, solver=sepify.Solver(refine=refinement)
    )


def plan_to_budget(model: Any) -> object:
    return sepify.plan(model, X, calibration=IMAGES, budget=sepify.Budget(macs=0.6))


def distill(model: Any) -> object:
    small = sepify.convert(model, solver=sepify.Solver(method="svd"), example_inputs=X)
    losses = sepify.Losses()
    return sepify.distill(
        small,
        teacher=model,
        data=IMAGES,
        epochs=1,
        losses=losses,
        loss=lambda given, wanted, _: (given - wanted).square().mean(),
        training=sepify.Training(batch=16),
    )


def compile(model: Any) -> object:
    pytest.importorskip("tvm")
    return sepify.compile(model, X)


def compare(model: Any) -> object:
    small = sepify.convert(model, solver=sepify.Solver(method="svd"), example_inputs=X)
    return sepify.compare(
        model,
        small,
        X,
        judging=sepify.Judging(unlabelled=IMAGES),
        timing=sepify.Timing(target=None, threads=()),
    )


SMALL_WORK = (lambda model: capture(model, (X,)), plan, convert_exactly)
ALL_WORK = (*SMALL_WORK, convert_by_svd, convert_on_data)


def require_untouched(name: str, works: tuple[Callable[[Any], object], ...]) -> None:
    """Run each of `works` on a specimen, which has to answer afterwards as its twin does."""
    model, twin = build(name), build(name)
    given = X.clone()
    before, around = snapshot(model), process()
    for work in works:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work(model)
        assert snapshot(model) == before
        assert process() == around
        assert torch.equal(given, X)
    for _ in range(2):
        torch.manual_seed(1)
        found = answer(model)
        torch.manual_seed(1)
        assert all(map(torch.equal, found, answer(twin)))


def answer(model: Any) -> tuple[Tensor, ...]:
    run = model.module() if isinstance(model, ExportedProgram) else model
    output = run(X.clone())
    return output if isinstance(output, tuple) else (output,)


class TestAnOriginalIsNeverChanged:
    @pytest.mark.parametrize("name", SPECIMENS)
    def test_by_capturing_planning_and_converting(self, name: str) -> None:
        require_untouched(name, ALL_WORK)

    @pytest.mark.parametrize("name", ["weight norm", "hooked", "half trained", "graph"])
    def test_by_a_budget(self, name: str) -> None:
        require_untouched(name, (plan_to_budget,))

    @pytest.mark.parametrize("name", ["weight norm", "spectral norm, old", "half trained"])
    def test_by_distilling(self, name: str) -> None:
        pytest.importorskip("accelerate")
        require_untouched(name, (distill,))

    @pytest.mark.parametrize("name", ["stacked", "hooked", "pruned", "remembers", "traced"])
    def test_by_comparing(self, name: str) -> None:
        require_untouched(name, (compare,))

    @pytest.mark.parametrize("name", ["weight norm", "weight norm, old", "half trained"])
    def test_by_compiling(self, name: str) -> None:
        require_untouched(name, (compile,))

    @pytest.mark.parametrize(
        "around",
        [
            torch.no_grad,
            torch.inference_mode,
            lambda: torch.autocast("cpu", torch.bfloat16),
            lambda: torch.random.fork_rng(),
        ],
    )
    def test_whatever_the_caller_has_switched_on(self, around: Callable[[], Any]) -> None:
        model = build("weight norm")
        before = snapshot(model)
        with around(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = process()
            plan(model)
            convert_by_svd(model)
            assert process() == state
        assert snapshot(model) == before


def test_a_public_name_that_is_used_for_the_first_time_draws_no_number() -> None:
    code = (
        "import random, sepify; before = random.getstate(); "
        "[getattr(sepify, name) for name in sepify.__all__]; assert random.getstate() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
