"""What a person may do to a plan file, and on which line the error says it went wrong."""

import json
import re
from dataclasses import replace

import pytest
from nets import Plain, images, seeded
from torch import fx

import sepify
from sepify.errors import FileError, PlanError, SepifyError
from sepify.planning.uniform import plan_uniform
from sepify.plans.costs import Cost
from sepify.plans.diff import diff_plans
from sepify.plans.file import load_plan, read_with_lines, save_plan
from sepify.plans.forms import Keep
from sepify.plans.plan import Outlook

OUTLOOK = Outlook("macs 0.35", 350.0, 340.0, "kl", 0.1, 0.12, 0.0, 2, None)


@pytest.fixture
def path(tmp_path):
    plan = plan_uniform(fx.symbolic_trace(seeded(Plain())), (images(),), rank=2)
    save_plan(replace(plan, outlook=OUTLOOK), tmp_path / "plan.json")
    return tmp_path / "plan.json"


def change(path, old: str, new: str) -> int:
    """Edit the last occurrence; the line that it is on."""
    text = path.read_text()
    index = text.rindex(old)
    path.write_text(text[:index] + new + text[index + len(old) :])
    return text.count("\n", 0, index) + 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"rank": 2', '"rank": "two"', "'conv2': rank 'two' is not"),
        ('"rank": 2', '"rnak": 2', '"rnak" is not a key'),
        ('"rank": 2', '"rank": 2, "rank": 3', '"rank" is given twice'),
        ('"order": "dw-pw"', '"order": "dw"', "order 'dw' is none of"),
        ('"form": "separate"', '"form": "drop"', "form 'drop' is none of keep, separate"),
        ('"name": "conv2"', '"name": "conv1"', "'conv1' is listed twice"),
        ('"style": "linear"', '"style": "cubist"', "\"style\" is 'cubist', none of linear, mobile"),
        ('"width": 1.0', '"width": 0', '"width" is 0, no share above 0'),
        ('"resolution": null', '"resolution": [160]', r'"resolution" is \[160\], neither'),
    ],
)
def test_an_error_names_the_line(path, old, new, message):
    line = change(path, old, new)
    with pytest.raises(PlanError, match=f"line {line}: .*{message}"):
        load_plan(path)


def test_an_entry_that_contradicts_itself_names_the_line(path):
    line = change(path, '"form": "separate"', '"form": "keep"') + 1
    with pytest.raises(PlanError, match=rf"line {line}: .*'conv2': order does not belong to form"):
        load_plan(path)


def test_a_form_that_lacks_a_field_names_the_line(path):
    change(path, '"rank": 2,', "")
    line = path.read_text().splitlines().index('      "name": "conv2",') + 2
    with pytest.raises(PlanError, match=rf"line {line}: .*'conv2': form 'separate' needs rank"):
        load_plan(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"rank": 2', '"rank": 99', "rank 99 is too high"),
        ('"name": "conv2"', '"name": "conv9"', "'conv9' .* which is no convolution"),
        ("16,\n        8,", "16,\n        9,", r"kernel \(16, 9, 3, 3\) in the plan and \(16, 8"),
    ],
)
def test_a_plan_for_another_model_names_the_layer_and_the_line(path, old, new, message):
    change(path, old, new)
    begins = path.read_text().splitlines().index("    {", 30) + 1
    with pytest.raises(PlanError, match=message) as caught:
        sepify.convert(seeded(Plain()), plan=load_plan(path), solver=sepify.Solver(method="svd"))
    assert f"(line {begins} of the plan)" in str(caught.value)


def test_an_edited_plan_is_carried_out_exactly(path):
    change(path, '"rank": 2', '"rank": 3')
    small = sepify.convert(
        seeded(Plain()), plan=load_plan(path), solver=sepify.Solver(method="svd")
    )
    assert [d.form.rank for d in small.meta["sepify"].plan] == [2, 3]
    assert small.get_submodule("conv2.depthwise").out_channels == 24


def test_everything_survives_the_file_in_a_stable_order(path):
    plan = load_plan(path)
    decisions = tuple(
        replace(d, damage=0.25, after=Cost(d.after.macs, d.after.params, 77, 1e-3)) for d in plan
    )
    plan = replace(plan, decisions=decisions)
    assert plan.outlook == OUTLOOK
    save_plan(plan, path)
    first = path.read_bytes()
    assert load_plan(path) == plan
    save_plan(load_plan(path), path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("value", "message"), [(3, "neither an object"), ({"budget": "x"}, "cannot be read")]
)
def test_an_outlook_that_cannot_be_read(path, value, message):
    document = json.loads(path.read_text())
    document["outlook"] = value
    path.write_text(json.dumps(document, indent=2))
    with pytest.raises(PlanError, match=f"line [0-9]+: .*{message}"):
        load_plan(path)


def older(path, version: int) -> dict:
    """The plan as versions 1 to 4 had it, which knew an action, an order and a rank."""
    document = json.loads(path.read_text()) | {"version": version}
    for entry in document["convolutions"]:
        entry["action"] = entry.pop("form")
        entry |= {"order": entry.get("order"), "rank": entry.get("rank")}
    return document


def test_plans_of_version_4_are_read(path):
    plan = load_plan(path)
    plan = replace(plan, decisions=(replace(plan["conv1"], form=Keep()), plan["conv2"]))
    save_plan(plan, path)
    path.write_text(json.dumps(older(path, 4)))
    assert '"order": null' in path.read_text()
    assert load_plan(path) == plan
    path.write_text(json.dumps(older_with(path, action="drop"), indent=2))
    found = [i for i, line in enumerate(path.read_text().splitlines(), 1) if '"drop"' in line]
    (line,) = found
    with pytest.raises(PlanError, match=rf"line {line}: 'conv2': form 'drop' is none of"):
        load_plan(path)


def older_with(path, **changes) -> dict:
    document = json.loads(path.read_text())
    document["convolutions"][1] |= changes
    return document


def test_plans_of_version_1_are_read(path):
    document = older(path, 1)
    del document["outlook"]
    for entry in document["convolutions"]:
        for key in ("moved", "seconds", "damage"):
            del entry[key]
    path.write_text(json.dumps(document))
    assert [d.form.rank for d in load_plan(path)] == [2, 2]


def test_lines_of_every_part():
    text = '{"a": [1,\n  {"b": "x,]}",\n "c": {}}],\n "d": []}\n'
    value, lines = read_with_lines(text)
    assert value == json.loads(text)
    assert lines["a", 1, "c"] == 3
    assert lines[("d",)] == 4


@pytest.mark.parametrize("version", [1, 2])
def test_a_plan_of_an_older_version_is_linear_at_full_size(path, version):
    document = older(path, version)
    for key in ("style", "width", "resolution"):
        del document[key]
    path.write_text(json.dumps(document))
    plan = load_plan(path)
    assert (plan.style, plan.width, plan.resolution) == ("linear", 1.0, None)


def test_a_difference_in_style_and_size_is_told(path):
    plan = load_plan(path)
    other = replace(plan, style="mobilenet", width=0.75, resolution=(160, 160))
    diff = diff_plans(plan, other)
    assert diff.shapes == ("style linear", "style mobilenet, width 0.75, images of 160x160")
    assert "style linear -> style mobilenet, width 0.75" in str(diff.render().renderables[0])


NOT_NUMBERS = [float("nan"), float("inf"), -float("inf"), "0.1", True, [0.1]]


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_no_plan_holds_what_is_no_finite_number(path, value):
    plan = load_plan(path)
    for name in ("error", "heldout_error", "block_error", "damage"):
        with pytest.raises(PlanError, match=f"plan entry 'conv1': {name} is .*, not a finite"):
            replace(plan["conv1"], **{name: value})
    with pytest.raises(PlanError, match="a cost: seconds is"):
        Cost(1, 1, 1, value)
    with pytest.raises(PlanError, match="outlook: measured is"):
        replace(OUTLOOK, measured=value)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", '"0.1"'])
def test_a_plan_file_with_what_is_no_finite_number_is_refused_with_the_line(path, text):
    for key in ("block_error", "damage"):
        document = json.loads(path.read_text())
        document["convolutions"][1][key] = 0.125
        path.write_text(json.dumps(document, indent=2))
        line = change(path, "0.125", text)
        with pytest.raises(SepifyError, match=r"plan\.json") as caught:
            load_plan(path)
        assert re.search(rf"line \d+: .*'conv2': {key} is|line {line}, ", str(caught.value))
        path.write_text(json.dumps(document, indent=2))


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
        (lambda d: d["convolutions"][0].update(form="drop"), "'conv1': form 'drop' is none of"),
        (lambda d: d["convolutions"][0].update(rank="two"), "'conv1': rank 'two'"),
        (lambda d: d["convolutions"][0].update(order="up"), "'conv1': order 'up'"),
        (lambda d: d["convolutions"][0].update(macs=[1]), "'conv1': macs has 1 items, not 2"),
        (lambda d: d["convolutions"][0].update(form="keep"), "'conv1': order does not belong"),
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
