"""convert(precision=...), and the plan that says what each layer runs at."""

from __future__ import annotations

import json

import pytest
import torch
from nets import Plain, images, relative_error, seeded
from torch import fx

import sepify
from sepify.errors import PlanError, UsageError
from sepify.graph.grids import quantising_nodes

FAST = sepify.Solver(refine=False)


def made(precision: str | None = None, **options: object) -> fx.GraphModule:
    return sepify.convert(
        seeded(Plain()),
        calibration=images(128),
        solver=FAST,
        precision=precision,
        **options,
    )


@pytest.fixture(scope="module")
def floating() -> fx.GraphModule:
    return made()


@pytest.mark.parametrize(
    ("precision", "most"), [("int8", 0.02), ("W4A8", 0.1), ("float16", 2e-3), ("bfloat16", 0.03)]
)
def test_the_network_answers_as_the_float32_one_and_its_plan_makes_it_again(
    precision, most, floating, tmp_path
):
    small, x = made(precision), images(8, seed=4)
    assert 0 < relative_error(small(x), floating(x)) < most
    plan = small.meta["sepify"].plan
    assert [decision.precision for decision in plan] == [precision, precision]
    assert small.meta["sepify"].fidelity is not None
    sepify.save_plan(plan, tmp_path / "plan.json")
    again = made(plan=sepify.load_plan(tmp_path / "plan.json"))
    assert torch.equal(again(x), small(x))


def test_layers_of_one_plan_run_at_different_precisions(tmp_path):
    path = tmp_path / "plan.json"
    sepify.save_plan(made("W4A8").meta["sepify"].plan, path)
    document = json.loads(path.read_text())
    document["convolutions"][0]["precision"] = "float32"
    path.write_text(json.dumps(document))
    small = made(plan=sepify.load_plan(path))
    record = small.meta["sepify"].quantisation
    assert [layer.name for layer in record.floating] == ["conv1.depthwise", "conv1.pointwise"]
    assert [d.precision for d in small.meta["sepify"].plan] == ["float32", "W4A8"]
    document["convolutions"][0]["precision"] = "int8"
    path.write_text(json.dumps(document))
    small = made(plan=sepify.load_plan(path))
    found = {each.name: each.precision for each in small.meta["sepify"].quantisation.layers}
    assert found["conv1.pointwise"] == "int8"
    assert found["conv2.pointwise"] == "W4A8"


def test_a_plan_without_precisions_is_in_float32(tmp_path, floating):
    path = tmp_path / "plan.json"
    sepify.save_plan(floating.meta["sepify"].plan, path)
    document = json.loads(path.read_text()) | {"version": 5}
    for entry in document["convolutions"]:
        assert entry.pop("precision") == "float32"
    path.write_text(json.dumps(document))
    assert [d.precision for d in sepify.load_plan(path)] == ["float32", "float32"]
    document["convolutions"][0]["precision"] = "int7"
    path.write_text(json.dumps(document))
    with pytest.raises(PlanError, match="precision 'int7' is none of float32, float16"):
        sepify.load_plan(path)


def test_what_cannot_be_meant_is_refused(floating):
    with pytest.raises(UsageError, match="precision 'int3' is not known"):
        made("int3")
    with pytest.raises(UsageError, match="contradicts the plan, which says int8"):
        made("float16", plan=made("int8").meta["sepify"].plan)
    with pytest.raises(UsageError, match="is to be trained before it is quantised"):
        made("int8", architecture=sepify.Architecture(style="mobilenet"))
    svd = sepify.Solver(method="svd")
    with pytest.raises(UsageError, match="int8 needs calibration images"):
        sepify.convert(seeded(Plain()), example_inputs=images(), precision="int8", solver=svd)
    assert not list(quantising_nodes(floating.graph))
