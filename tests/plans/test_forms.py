"""The forms that a convolution can take, and what a new one needs: its rows in two tables."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nets import Plain, images, seeded
from plans.box import Box, add_box
from torch import fx, nn

import sepify
from sepify.errors import PlanError, UsageError
from sepify.factorize.factors import run_factors
from sepify.factorize.solvers import SOLVERS, factorize, weight_error
from sepify.graph.convolutions import survey
from sepify.graph.maps import measure_maps
from sepify.planning.uniform import plan_uniform
from sepify.plans.chains import Bottleneck, LowRank, Spatial
from sepify.plans.check import check_plan
from sepify.plans.diff import diff_plans
from sepify.plans.file import load_plan, save_plan
from sepify.plans.forms import FORMS, Keep, Separate, form_from_dict, form_to_dict
from sepify.plans.plan import Plan

CHAINS = (Bottleneck(5), LowRank(3), Spatial(4))
FILE = Path(__file__).parent / "box.py"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-form.md"


@pytest.fixture
def box():
    tables = [(table, dict(table)) for table in (FORMS, SOLVERS)]
    add_box()
    yield Box(2.0)
    for table, before in tables:
        table.clear()
        table.update(before)


@pytest.fixture
def network():
    return fx.symbolic_trace(seeded(Plain()))


@pytest.mark.parametrize("form", [*CHAINS, Keep(), Separate("dw-pw", 2), Separate("pw-dw", 1)])
def test_a_form_survives_its_file(form):
    document = json.loads(json.dumps(form_to_dict(form)))
    assert document["form"] == form.kind
    assert form_from_dict(document) == form


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "form None is none of keep, separate, bottleneck, low-rank, spatial"),
        ({"form": ["keep"]}, r"form \['keep'\] is none of"),
        ({"form": "keep", "rank": 1}, "rank does not belong to form 'keep'"),
        ({"form": "separate", "order": "dw-pw"}, "form 'separate' needs rank"),
        ({"form": "separate", "order": "dw", "rank": 1}, "order 'dw' is none of dw-pw, pw-dw"),
        ({"form": "separate", "order": "dw-pw", "rank": 0}, "rank 0 is not a whole number"),
        ({"form": "separate", "order": "dw-pw", "rank": True}, "rank True is not a whole"),
    ],
)
def test_what_is_no_form(given, message):
    with pytest.raises(PlanError, match=message):
        form_from_dict(given)


def test_the_steps_of_a_family_cost_more_and_end_where_the_form_is_exact(network):
    convolution = survey(network)[1]
    maps = measure_maps(network, (images(1),))[convolution.name]
    found = list(Separate.candidates(convolution.kernel))
    assert {form.family for form in found} == {"dw-pw", "pw-dw"}
    for family in ("dw-pw", "pw-dw"):
        ladder = [form for form in found if form.family == family]
        assert [form.step for form in ladder] == list(range(1, len(ladder) + 1))
        macs = [form.cost(convolution, maps, bias=False).macs for form in ladder]
        assert macs == sorted(macs)
        exact = [form.is_exact(convolution.kernel) for form in ladder]
        assert exact == [False] * (len(ladder) - 1) + [True]


@pytest.mark.parametrize("former", ["action", "order", "rank"])
def test_a_former_attribute_names_the_new_one(network, former):
    decision = plan_uniform(network)["conv1"]
    with pytest.raises(UsageError, match=rf"Decision\.{former} is now Decision\.form\."):
        getattr(decision, former)
    with pytest.raises(PlanError, match="'separate' is no form"):
        replace(decision, form="separate")


def boxed(network, box) -> Plan:
    plan = plan_uniform(network, (images(1),))
    convolution = survey(network)[1]
    maps = measure_maps(network, (images(1),))["conv2"]
    cost = box.cost(convolution, maps, bias=True)
    kept, second = replace(plan["conv1"], form=Keep()), plan["conv2"]
    return replace(plan, decisions=(kept, replace(second, form=box, after=cost)), method="svd")


def test_a_new_form_goes_through_the_file_the_diff_and_the_check(network, box, tmp_path):
    plan = boxed(network, box)
    save_plan(plan, tmp_path / "plan.json")
    entry = json.loads((tmp_path / "plan.json").read_text())["convolutions"][1]
    assert list(entry)[:3] == ["name", "form", "height"]
    assert (entry["form"], entry["height"]) == ("box", 2.0)
    read = load_plan(tmp_path / "plan.json")
    assert read == plan
    assert [d.name for d in read.rewritten] == ["conv2"]
    check_plan(read, survey(network))
    change = diff_plans(plan_uniform(network, (images(1),)), read).changes[1]
    assert (change.first, change.second) == ("dw-pw 1", "box of height 2")
    text = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(text.replace('"height": 2.0', '"height": "tall"'))
    with pytest.raises(PlanError, match="'conv2': height 'tall' is not a finite number"):
        load_plan(tmp_path / "plan.json")


def test_a_new_form_is_solved_timed_and_carried_out(network, box):
    conv = network.get_submodule("conv2")
    assert isinstance(conv, nn.Conv2d)
    x = torch.randn(2, conv.in_channels, 12, 12)
    factors = factorize(box, conv.weight, conv.bias)
    assert run_factors(factors, conv, x).shape == box.stand_in(conv)(x).shape == conv(x).shape
    flat = torch.ones_like(conv.weight)
    assert weight_error(box, flat) == pytest.approx(0, abs=1e-9)
    assert 0 < weight_error(box, conv.weight) < 1
    small = sepify.convert(
        seeded(Plain()), plan=boxed(network, box), solver=sepify.Solver(method="svd")
    )
    assert torch.equal(small.get_submodule("conv2.depthwise").weight, factors.depthwise)
    decision = small.meta["sepify"].plan["conv2"]
    counted = factors.depthwise.numel() + factors.pointwise.numel() + conv.out_channels
    assert (decision.form, decision.after.params) == (box, counted)
    parts = [name for name, _ in small.get_submodule("conv2").named_children()]
    assert tuple(parts) == box.parts


def test_the_page_shows_the_form_of_the_test():
    """Each part of box.py stands in the page as it is."""
    page = PAGE.read_text("utf-8")
    first, *parts = FILE.read_text("utf-8").split("# --- ")
    assert first
    assert len(parts) == 3
    for part in parts:
        _, code = part.split("\n", 1)
        assert f"```python\n{code.strip()}\n```" in page
