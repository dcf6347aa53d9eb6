"""The plans that measured ones must not lose to, and the last choice among whole plans."""

from dataclasses import replace

import torch
from nets import Plain, images, seeded
from torch import nn

import sepify
from sepify.planning import run_off as run_off_file
from sepify.planning.entrants import list_entrants
from sepify.planning.knapsack import Choice
from sepify.planning.measurements import Candidate, Layer
from sepify.planning.run_off import FINALISTS, run_off
from sepify.planning.search import settle
from sepify.planning.unmeasured import energy_picks, uniform_picks, unmeasured_picks
from sepify.plans.budget import Budget
from sepify.plans.costs import Cost
from sepify.plans.forms import Keep, Separate


def layer(name: str, ranks: int = 4) -> Layer:
    separated = [
        Candidate(Separate("dw-pw", rank), Cost(10 * rank, 0), 1 / rank) for rank in range(1, ranks)
    ]
    other = Candidate(Separate("pw-dw", 1), Cost(10, 0), 2.0)
    return Layer((name,), (), (Candidate(Keep(), Cost(100, 0), 0.0), other, *separated))


LAYERS = [layer("stem"), layer("a"), layer("b"), layer("c", ranks=2)]
COSTS = [[float(c.cost.macs or 0) for c in each.candidates] for each in LAYERS]


def ranks(picks) -> list[int | None]:
    forms = [layer.candidates[pick].form for layer, pick in zip(LAYERS, picks, strict=True)]
    return [form.rank if isinstance(form, Separate) else None for form in forms]


def test_uniform_fills_the_budget_from_the_last_layer_on():
    assert ranks(uniform_picks(LAYERS, COSTS, 130)) == [None, 1, 1, 1]
    # 'c' has no rank 2 that is cheaper than to keep it: one more there is the convolution itself
    assert uniform_picks(LAYERS, COSTS, 219) == uniform_picks(LAYERS, COSTS, 130)
    assert ranks(uniform_picks(LAYERS, COSTS, 230)) == [None, 1, 2, None]
    assert ranks(uniform_picks(LAYERS, COSTS, 300)) == [None, 3, 3, None]
    assert uniform_picks(LAYERS, COSTS, 129) is None


def test_greedy_takes_the_rank_that_keeps_a_share_of_the_energy():
    convs = {each.names[0]: nn.Conv2d(4, 8, 3) for each in LAYERS}
    flat = torch.randn(8, 4, 1, 1) * torch.randn(1, 4, 3, 3)  # of rank 1: nothing is lost
    convs["b"].weight.data = flat
    picks = energy_picks(LAYERS, COSTS, 130, convs)
    assert ranks(picks)[2] == 1
    assert sum(row[pick] for row, pick in zip(COSTS, picks, strict=True)) <= 130
    assert energy_picks(LAYERS, COSTS, 39, convs) is None
    assert unmeasured_picks(LAYERS, COSTS, 39, convs) == []


class Bench:
    """A stand-in for the workbench, to which one plan is the best, as solved and once refined."""

    def __init__(self, solved, refined=None):
        self.solved, self.best_refined = solved, refined or solved
        self.measured, self.refined_forms = [], []

    def around(self, chosen, others, progress):
        loss = self.lost(self.factors(chosen, progress), progress)
        return loss, {n: [0.5] * len(f) for n, f in others.items()}

    def factors(self, chosen, progress):
        self.measured.append(chosen)
        return {"best": self.solved, **chosen}

    def refined(self, factors, refinement, progress):
        self.refined_forms.append(factors)
        return {**factors, "best": self.best_refined}

    def lost(self, factors, progress):
        forms = dict(factors)
        best = forms.pop("best")
        return 1.0 if {name: form.rank for name, form in forms.items()} == best else 1.2


CONVS = {each.names[0]: nn.Conv2d(4, 8, 3) for each in LAYERS}


def silent(*_):
    """No progress is shown."""


def test_plans_from_elsewhere_compete_and_the_best_is_taken():
    bench = Bench({"a": 1, "b": 2})
    settled = settle(bench, LAYERS, COSTS, 230.0, silent)
    entrants = list_entrants(settled, LAYERS, COSTS, 230.0, CONVS)
    assert entrants[: len(settled)] == list(settled)
    assert len({choice.picks for choice in entrants}) == len(entrants) > len(settled)
    assert all(choice.cost <= 230 for choice in entrants)
    uniform = uniform_picks(LAYERS, COSTS, 230)
    taken = run_off(bench, LAYERS, entrants, silent)
    assert taken.choice.picks == uniform
    assert (taken.measured, taken.choice.cost) == (1.0, 230)
    assert taken.choice.gap > 0  # the knapsack would not have taken it


def test_the_same_seed_draws_the_same_plans():
    settled = settle(Bench({}), LAYERS, COSTS, 230.0, silent)
    first, again = (list_entrants(settled, LAYERS, COSTS, 230.0, CONVS) for _ in range(2))
    assert first == again


def plan_with(rank: int) -> Choice:
    """'b' at this rank, everything else kept."""
    return Choice((0, 0, rank + 1, 0), 0.0, 0.0, 0.0)


def test_refinement_may_change_which_plan_is_best():
    bench = Bench({"b": 1}, refined={"b": 2})
    taken = run_off(bench, LAYERS, [plan_with(1), plan_with(2), plan_with(3)], silent)
    assert taken.choice == plan_with(2)
    assert taken.measured == 1.2  # as solved
    assert (len(bench.measured), len(bench.refined_forms)) == (3, FINALISTS)


def test_what_lost_far_more_is_not_refined_nor_is_the_only_one_left(monkeypatch):
    bench = Bench({"b": 1})
    assert run_off(bench, LAYERS, [plan_with(2), plan_with(1)], silent).choice == plan_with(1)
    assert len(bench.refined_forms) == 2
    monkeypatch.setattr(run_off_file, "NEAR", 1.1)
    assert run_off(bench, LAYERS, [plan_with(2), plan_with(1)], silent).choice == plan_with(1)
    assert len(bench.refined_forms) == 2


def test_what_is_expected_to_lose_far_more_does_not_compete():
    ranks = [Candidate(Separate("dw-pw", r), Cost(10 * r, 0), 1.0 / r) for r in (1, 2, 3, 4)]
    kept = Candidate(Keep(), Cost(100, 0), 0.0)
    layers = [Layer((name,), (), (kept, *ranks)) for name in "ab"]
    costs = [[100.0, 10.0, 20.0, 30.0, 40.0]] * 2
    settled = settle(Bench({}), layers, costs, 140.0, silent, rounds=1)
    convs = {name: nn.Conv2d(4, 8, 3) for name in "ab"}
    assert uniform_picks(layers, costs, 140.0) == (0, 4)
    among = [choice.picks for choice in list_entrants(settled, layers, costs, 140.0, convs)]
    assert (0, 4) in among
    bad = [
        replace(c, damage=9.0) if c.form == Separate("dw-pw", 4) else c
        for c in layers[1].candidates
    ]
    layers[1] = replace(layers[1], candidates=tuple(bad))
    settled = settle(Bench({}), layers, costs, 140.0, silent, rounds=1)
    among = [choice.picks for choice in list_entrants(settled, layers, costs, 140.0, convs)]
    assert (0, 4) not in among


def test_a_plan_is_refined_before_it_is_chosen(monkeypatch):
    asked = []

    def noted(bench, layers, entrants, progress):
        asked.append(len(entrants))
        return run_off(bench, layers, entrants, progress)

    monkeypatch.setattr("sepify.planning.budgeted.run_off", noted)
    monkeypatch.setattr(run_off_file, "QUICK", sepify.Refinement(steps=2, batch=16))
    sepify.plan(seeded(Plain(16)), calibration=images(96), budget=Budget(macs=0.4))
    assert asked[0] >= 2
