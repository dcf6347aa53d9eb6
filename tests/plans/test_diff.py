import json

from nets import Plain, images, seeded
from rich.console import Console
from torch import fx

from sepify.planning.uniform import plan_uniform
from sepify.plans.diff import diff_plans
from sepify.plans.plan import Plan


def plan(**options) -> Plan:
    return plan_uniform(fx.symbolic_trace(seeded(Plain())), (images(),), **options)


def shown(diff) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(diff.render())
    return console.export_text()


def test_changes_costs_and_reasons():
    first, second = plan(rank=2), plan(rank=1, keep=["conv2"])
    diff = diff_plans(first, second)
    assert [(c.name, c.first, c.second) for c in diff.changes] == [
        ("conv1", "dw-pw 2", "dw-pw 1"),
        ("conv2", "dw-pw 2", "keep"),
    ]
    assert diff.changes[1].reason == "asked to keep 'conv2'"
    assert diff.macs == tuple(sum(d.after.macs for d in p) for p in (first, second))
    text = shown(diff)
    assert "asked to keep 'conv2'" in text
    assert "0.50x" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert json.loads(json.dumps(diff.to_dict()))["changes"][0]["second"] == "dw-pw 1"


def test_plans_that_do_the_same():
    diff = diff_plans(plan(rank=2), plan(rank=2))
    assert (diff.changes, diff.alike) == ((), 2)
    assert "the same to all 2 convolutions" in shown(diff)


def test_a_layer_that_one_plan_does_not_know():
    whole = plan(rank=1)
    diff = diff_plans(whole, Plan(whole.decisions[:1]))
    (change,) = diff.changes
    assert (change.name, change.first, change.second) == ("conv2", "dw-pw 1", None)
