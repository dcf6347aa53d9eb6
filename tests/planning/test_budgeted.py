"""Plans for budgets, from measurement to decision, on networks that take a second."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from nets import Plain, Residual, images, network_of, seeded
from options import grouped
from torch import fx, nn

import sepify
from sepify.errors import FileError, InputError, PlanError, UsageError
from sepify.graph.batches import calibration_batches
from sepify.planning.budgeted import Known, measure_candidates
from sepify.planning.candidates import (
    Candidate,
    Layer,
    Measurements,
    load_measurements,
    save_measurements,
)
from sepify.planning.frontier import trace_frontier
from sepify.planning.knapsack import cost_table
from sepify.planning.latency import LatencyTable, entry
from sepify.planning.search import run_rounds
from sepify.plans.budget import Budget
from sepify.plans.costs import Cost
from sepify.plans.forms import Keep, Separate
from sepify.process.machine import this_machine

QUICK = sepify.Refinement(steps=5, batch=16)
DATA = images(96)


class Tied(nn.Module):
    """Two convolutions with one weight, and a third that costs most and matters least."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 12, 3, padding=1)
        self.b = nn.Conv2d(12, 12, 3, padding=1)
        self.c = nn.Conv2d(12, 12, 3, padding=1)
        self.c.weight = self.b.weight
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.head(torch.relu(self.c(x)).mean((2, 3)))


def share(plan) -> float:
    return sum(d.after.macs for d in plan) / sum(d.before.macs for d in plan)


@pytest.fixture(scope="module")
def measured() -> Measurements:
    graph = fx.symbolic_trace(seeded(Plain(16)))
    return measure_candidates(network_of(graph, calibration_batches(DATA), (images(1),)))


@pytest.mark.parametrize("limit", [0.2, 0.5, 0.8])
def test_a_plan_is_within_its_budget_and_says_so(limit):
    plan = sepify.plan(seeded(Plain(16)), calibration=DATA, budget=Budget(macs=limit))
    assert share(plan) <= limit
    assert plan.outlook.reached == sum(d.after.macs for d in plan)
    assert plan.outlook.limit == pytest.approx(limit * sum(d.before.macs for d in plan))
    assert plan.outlook.loss == "kl"
    assert 0 <= plan.outlook.gap < 1  # not 0 where a plan that is not the solver's measured best
    assert 0 < plan.outlook.measured < 10
    assert plan.outlook.predicted == pytest.approx(sum(d.damage for d in plan))
    assert all("loses" in d.reason and "nats" in d.reason for d in plan.rewritten)


def test_more_budget_is_never_more_damage(measured):
    points = trace_frontier(measured, "macs").points
    assert len(points) > 4
    assert all(a.cost < b.cost and a.damage > b.damage for a, b in pairwise(points))
    assert points[-1].share == 1
    assert points[-1].damage == 0
    assert set(points[-1].choices.values()) == {"kept"}


def test_the_frontier_as_json_and_as_a_sparkline(measured):
    frontier = trace_frontier(measured, "params", points=8)
    document = frontier.to_dict()
    assert (document["format"], document["quantity"]) == ("sepify-frontier", "params")
    assert document["points"][0]["cost"] == frontier.points[0].cost
    line = frontier.sparkline()
    assert len(line) == len(frontier.points)
    assert (line[0], line[-1]) == ("█", "▁")
    assert list(line) == sorted(line, reverse=True)


@pytest.mark.parametrize(
    ("budget", "cost"),
    [
        (Budget(params="1k"), lambda plan: sum(d.after.params for d in plan) / 1000),
        (Budget(params=0.3), lambda plan: sum(d.after.params for d in plan) / (0.3 * 5072)),
    ],
)
def test_budgets_in_parameters(budget, cost):
    plan = sepify.plan(seeded(Plain(16)), calibration=DATA, budget=budget)
    assert 0.5 < cost(plan) <= 1


def test_a_budget_in_megabytes_holds_for_the_weights_of_the_whole_model():
    model = seeded(Plain(16))
    small = sepify.convert(
        model, calibration=DATA, budget=Budget(size_mb=0.008), solver=sepify.Solver(refine=QUICK)
    )
    tensors = [*small.parameters(), *small.buffers()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert size <= 8000
    assert size <= small.meta["sepify"].plan.outlook.reached


def test_a_budget_out_of_reach_says_the_least_possible():
    with pytest.raises(
        PlanError, match=r"cannot be met: .* least possible is [\d,]+ MACs \(\d\.\d"
    ):
        sepify.plan(seeded(Plain(16)), calibration=DATA, budget=Budget(macs=0.01))


def test_tied_convolutions_are_decided_together():
    plan = sepify.plan(seeded(Tied()), calibration=DATA, budget=Budget(macs=0.5))
    assert plan["b"].form == plan["c"].form
    small = sepify.convert(
        seeded(Tied()), plan=plan, calibration=DATA, solver=sepify.Solver(refine=False)
    )
    assert share(plan) <= 0.5
    assert small(DATA).shape == (96, 4)


def test_keep_and_filter_are_obeyed():
    model = seeded(Plain(16))
    plan = sepify.plan(model, calibration=DATA, budget=Budget(macs=0.9), keep=["*1"])
    assert plan["conv1"].reason == "asked to keep '*1'"
    assert [d.name for d in plan.rewritten] == ["conv2"]
    plan = sepify.plan(
        model, calibration=DATA, budget=Budget(macs=0.9), keep=lambda m, n: m.stride != (1, 1)
    )
    assert plan["conv2"].reason == "asked to keep it"
    with pytest.raises(PlanError, match="'layer9' matches no convolution"):
        sepify.plan(model, calibration=DATA, budget=Budget(macs=0.9), keep=["layer9"])


def test_outputs_that_are_no_class_scores_are_judged_by_their_squared_error():
    plan = sepify.plan(seeded(Residual(12)), calibration=DATA, budget=Budget(macs=0.5))
    assert plan.outlook.loss == "relative"
    assert "of the outputs' variance" in plan.rewritten[0].reason


def test_convert_to_a_budget_does_what_its_plan_says():
    model = seeded(Plain(16))
    small = sepify.convert(
        model, calibration=DATA, budget=Budget(macs=0.4), solver=sepify.Solver(refine=QUICK)
    )
    plan = small.meta["sepify"].plan
    assert plan.outlook.budget == "macs 0.4"
    for decision in plan.rewritten:
        chain = small.get_submodule(decision.name)
        assert tuple(dict(chain.named_children())) == decision.form.parts
        assert sum(p.numel() for p in chain.parameters()) == decision.after.params


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(budget=Budget(macs=0.5)), UsageError, "needs data"),
        (dict(budget=Budget(macs=0.5), calibration=DATA, rank=2), UsageError, "leave out rank"),
        (dict(budget=Budget(macs=0.5), calibration=images(20)), InputError, "20 .* too few"),
        (
            dict(budget=Budget(macs=0.5), calibration=DATA, labelled=(DATA, torch.zeros(96))),
            UsageError,
            "accuracy_drop",
        ),
        (
            dict(budget=Budget(latency=0.5, target="raspberry-pi-4"), calibration=DATA),
            UsageError,
            "name a board",
        ),
    ],
)
def test_requests_that_make_no_sense(options, error, message):
    with pytest.raises(error, match=message):
        sepify.plan(seeded(Plain(16)), **grouped(options))


def test_a_plan_and_a_budget_contradict_each_other():
    model = seeded(Plain(16))
    with pytest.raises(UsageError, match="contradict"):
        sepify.convert(model, plan=sepify.plan(model), budget=Budget(macs=0.5), calibration=DATA)


def test_measurements_are_saved_at_once_and_used_again(tmp_path):
    path, saved, model = tmp_path / "measured.json", [], seeded(Plain(16))
    known = Known(save_measurements=saved.append)
    fresh = sepify.plan(model, calibration=DATA, budget=Budget(macs=0.4), known=known)
    (measured,) = saved
    save_measurements(measured, path)
    assert load_measurements(path) == measured
    saved.clear()
    known = Known(load_measurements(path), save_measurements=saved.append)
    again = sepify.plan(model, calibration=DATA, budget=Budget(macs=0.4), known=known)
    assert saved == []
    assert [d.form for d in again] == [d.form for d in fresh]
    with pytest.raises(PlanError, match=r"'conv1' has kernel \(16, 3, 3, 3\) there and \(8, 3"):
        sepify.plan(seeded(Plain(8)), calibration=DATA, budget=Budget(macs=0.4), known=known)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no sepify-measurements"),
        ('{"format": "sepify-measurements", "version": 9}', "version 9"),
        ('{"format": "sepify-measurements", "version": 4, "layers": [{}]}', "damaged"),
    ],
)
def test_files_that_are_no_measurements(tmp_path, text, message):
    path = tmp_path / "measured.json"
    path.write_text(text)
    with pytest.raises(FileError, match=message):
        load_measurements(path)


class Interacting:
    """A stand-in for the trials: the first layer's loss is four times its estimate."""

    def __init__(self):
        self.asked = []

    def around(self, chosen, others, progress):
        self.asked.append(dict(chosen))

        def loss(ranks):
            return 4.0 / ranks["a"] + 1.5 / ranks["b"]

        ranks = {name: form.rank for name, form in chosen.items()}
        changed = {
            name: [loss({**ranks, name: form.rank}) for form in forms]
            for name, forms in others.items()
        }
        return loss(ranks), changed


def test_rounds_correct_a_layer_that_was_thought_harmless():
    def layer(name, worst):
        separated = [
            Candidate(Separate("dw-pw", rank), Cost(10 * rank, 0), worst / rank)
            for rank in (1, 2, 3, 4)
        ]
        return Layer((name,), (), (Candidate(Keep(), Cost(100, 0), 0.0), *separated))

    layers = [layer("a", 1.0), layer("b", 1.5)]
    costs = [[100.0, 10.0, 20.0, 30.0, 40.0]] * 2
    trials = Interacting()
    chosen = run_rounds(trials, layers, costs, 50.0, lambda *_: None, rounds=4)
    first = trials.asked[0]
    assert (first["a"].rank, first["b"].rank) == (2, 3)
    assert [choice.picks for choice in chosen] == [(2, 3), (3, 2)]
    assert [choice.damage for choice in chosen] == pytest.approx([1.0, 1 / 3 + 1.5 / 2])


def latency_table(measured: Measurements, keys: dict[str, str], slow: str | None) -> LatencyTable:
    """Every rank takes a fifth of the convolution's time more; the layer `slow` can only lose."""
    seconds = {}
    for layer in measured.layers:
        for candidate in layer.candidates:
            rewrites = candidate.form.rewrites
            separate = isinstance(candidate.form, Separate)
            time = 0.2e-3 * candidate.form.rank if separate else 1.2e-3 if rewrites else 1e-3
            if layer.names[0] == slow and rewrites:
                time += 1.1e-3
            seconds[entry(keys[layer.names[0]], candidate)] = time
    return LatencyTable("onnxruntime", this_machine().cpu, 1, seconds)


KEYS = {
    "conv1": "16x3x3x3 /1,1 +1,1 *1,1 g1 @12x12",
    "conv2": "32x16x3x3 /2,2 +1,1 *1,1 g1 @12x12",
}
HALF = Budget(latency="61%", target="onnxruntime")


def test_what_is_slower_on_the_target_stays_and_says_by_how_much(measured):
    known = Known(measured, latency_table(measured, KEYS, slow="conv1"))
    plan = sepify.plan(seeded(Plain(16)), calibration=DATA, budget=HALF, known=known)
    assert plan["conv1"].form == Keep()
    assert plan["conv1"].reason == (
        "slower on onnxruntime: dw-pw at rank 1 takes 1.300 ms and the convolution 1.000 ms (+30%)"
    )
    assert plan["conv2"].form.rank == 1
    before = sum(d.before.seconds for d in plan)
    assert plan.outlook.reached == sum(d.after.seconds for d in plan) <= 0.61 * before


def test_no_plan_is_slower_than_the_original_on_its_table(measured):
    known = Known(measured, latency_table(measured, KEYS, slow="conv1"))
    whole = Budget(latency=1.0, target="onnxruntime")
    plan = sepify.plan(seeded(Plain(16)), calibration=DATA, budget=whole, known=known)
    assert sum(d.after.seconds for d in plan) <= sum(d.before.seconds for d in plan)
    with pytest.raises(PlanError, match=r"least possible is 1\.200 ms \(60\.0%"):
        tight = Budget(latency="0.5ms", target="onnxruntime")
        sepify.plan(seeded(Plain(16)), calibration=DATA, budget=tight, known=known)


@pytest.mark.parametrize(
    ("change", "message"),
    [(dict(target="native"), "on target 'native'"), (dict(machine="other"), "another machine")],
)
def test_a_latency_table_from_elsewhere(measured, change, message):
    table = replace(latency_table(measured, KEYS, None), **change)
    with pytest.raises(PlanError, match=message):
        sepify.plan(seeded(Plain(16)), calibration=DATA, budget=HALF, known=Known(measured, table))


def labels_of(model, data):
    with torch.no_grad():
        return model(data).argmax(1)


def test_an_accuracy_budget_is_verified_on_data_that_nothing_was_chosen_by():
    model, data = seeded(Plain(16)), images(512, seed=3)
    labels = labels_of(model, data)
    plan = sepify.plan(
        model, calibration=DATA, budget=Budget(accuracy_drop=3, labelled=(data, labels))
    )
    assert plan.outlook.reached <= 3
    assert "on 128 labelled images that nothing was chosen by" in plan.outlook.verified
    assert share(plan) < 1
    small = sepify.convert(model, plan=plan, calibration=DATA, solver=sepify.Solver(refine=False))
    unseen = images(512, seed=9)
    kept = (labels_of(small, unseen) == labels_of(model, unseen)).float().mean()
    assert kept >= 0.93


def test_without_labels_agreement_counts_on_images_that_are_not_planned_by():
    model = seeded(Plain(16))
    plan = sepify.plan(model, calibration=images(440), budget=Budget(accuracy_drop=5))
    assert "agrees with the original on" in plan.outlook.verified
    assert plan.outlook.reached <= 5


def _with_a_label_missing() -> Budget:
    return Budget(accuracy_drop=1, labelled=(images(200), torch.zeros(199).long()))


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (Residual(), dict(calibration=images(320)), UsageError, "needs a classifier"),
        (Plain(16), dict(calibration=images(128)), InputError, "55 are too few"),
        (
            Plain(16),
            dict(calibration=DATA, budget=_with_a_label_missing()),
            InputError,
            "200 images but 199 labels",
        ),
    ],
)
def test_accuracy_budgets_that_cannot_be_checked(model, options, error, message):
    with pytest.raises(error, match=message):
        sepify.plan(seeded(model), **{"budget": Budget(accuracy_drop=1), **options})


class Dead(nn.Module):
    """One convolution whose output nobody uses; outputs in a dict, beside a number."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.dead = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        self.dead(x)
        return {"map": self.last(x), "images": len(DATA)}


def test_a_convolution_that_nobody_uses_is_kept_and_others_are_planned():
    plan = sepify.plan(seeded(Dead()), calibration=DATA, budget=Budget(macs=0.7))
    assert plan["dead"].reason == "nothing uses its output"
    assert plan.rewritten
    assert plan.outlook.loss == "relative"


def test_batches_of_one_image_and_of_half_precision():
    loader = [images(1, seed=seed).bfloat16() for seed in range(40)]
    plan = sepify.plan(seeded(Plain(16)).bfloat16(), calibration=loader, budget=Budget(macs=0.4))
    assert share(plan) <= 0.4
    assert 0 < plan.outlook.measured < 10


def test_progress_is_told():
    told = []
    sepify.plan(
        seeded(Plain(16)),
        calibration=DATA,
        budget=Budget(macs=0.5),
        progress=lambda what, done, total: told.append(what),
    )
    assert {"estimating every candidate", "choosing"} <= set(told)


def test_what_a_kept_layer_would_save_is_told_in_multiply_adds_for_accuracy(measured):
    table = cost_table(measured, "accuracy_drop")
    macs = cost_table(measured, "macs")
    assert (table.costs, table.words(1234)) == (macs.costs, "1,234 MACs")


def test_a_budget_in_agreement_is_the_cheapest_plan_that_answers_alike():
    model = seeded(Plain(16))
    plan = sepify.plan(model, calibration=images(320), budget=Budget(agreement=0.8), holdout=0)
    assert plan.outlook.budget == "agreement 0.8"
    assert "agrees with the original on" in plan.outlook.verified
    assert plan.outlook.reached <= 20
    assert plan.rewritten
    with pytest.raises(InputError, match="agreement is searched and verified on .* too few"):
        sepify.plan(model, calibration=images(100), budget=Budget(agreement="98%"), holdout=0)
