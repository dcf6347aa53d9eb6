"""The rounds, the plans that compete, and the last choice among whole plans."""

from dataclasses import replace

from nets import Plain, images, seeded
from planning.made_up_layers import COSTS, LAYERS
from torch import nn

import sepify
from sepify.planning import search
from sepify.planning.candidates import Candidate, Layer
from sepify.planning.knapsack import Choice
from sepify.planning.reference_plans import uniform_picks
from sepify.planning.search import FINALISTS, best_measured, competing_plans, run_rounds
from sepify.plans.budget import Budget
from sepify.plans.costs import Cost
from sepify.plans.forms import Keep, Separate


class MadeUpTrials:
    """A stand-in for the trials, to which one plan is the best, as solved and once refined."""

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
    trials = MadeUpTrials({"a": 1, "b": 2})
    chosen = run_rounds(trials, LAYERS, COSTS, 230.0, silent)
    plans = competing_plans(chosen, LAYERS, COSTS, 230.0, CONVS)
    assert plans[: len(chosen)] == list(chosen)
    assert len({choice.picks for choice in plans}) == len(plans) > len(chosen)
    assert all(choice.cost <= 230 for choice in plans)
    uniform = uniform_picks(LAYERS, COSTS, 230)
    taken = best_measured(trials, LAYERS, plans, silent)
    assert taken.choice.picks == uniform
    assert (taken.measured, taken.choice.cost) == (1.0, 230)
    assert taken.choice.gap > 0  # the knapsack would not have taken it


def test_the_same_seed_draws_the_same_plans():
    chosen = run_rounds(MadeUpTrials({}), LAYERS, COSTS, 230.0, silent)
    first, again = (competing_plans(chosen, LAYERS, COSTS, 230.0, CONVS) for _ in range(2))
    assert first == again


def plan_with(rank: int) -> Choice:
    """'b' at this rank, everything else kept."""
    return Choice((0, 0, rank + 1, 0), 0.0, 0.0, 0.0)


def test_refinement_may_change_which_plan_is_best():
    trials = MadeUpTrials({"b": 1}, refined={"b": 2})
    taken = best_measured(trials, LAYERS, [plan_with(1), plan_with(2), plan_with(3)], silent)
    assert taken.choice == plan_with(2)
    assert taken.measured == 1.2  # as solved
    assert (len(trials.measured), len(trials.refined_forms)) == (3, FINALISTS)


def test_what_lost_far_more_is_not_refined_nor_is_the_only_one_left(monkeypatch):
    trials = MadeUpTrials({"b": 1})
    assert best_measured(trials, LAYERS, [plan_with(2), plan_with(1)], silent).choice == plan_with(
        1
    )
    assert len(trials.refined_forms) == 2
    monkeypatch.setattr(search, "NEAR", 1.1)
    assert best_measured(trials, LAYERS, [plan_with(2), plan_with(1)], silent).choice == plan_with(
        1
    )
    assert len(trials.refined_forms) == 2


def test_what_is_expected_to_lose_far_more_does_not_compete():
    ranks = [Candidate(Separate("dw-pw", r), Cost(10 * r, 0), 1.0 / r) for r in (1, 2, 3, 4)]
    kept = Candidate(Keep(), Cost(100, 0), 0.0)
    layers = [Layer((name,), (), (kept, *ranks)) for name in "ab"]
    costs = [[100.0, 10.0, 20.0, 30.0, 40.0]] * 2
    chosen = run_rounds(MadeUpTrials({}), layers, costs, 140.0, silent, rounds=1)
    convs = {name: nn.Conv2d(4, 8, 3) for name in "ab"}
    assert uniform_picks(layers, costs, 140.0) == (0, 4)
    among = [choice.picks for choice in competing_plans(chosen, layers, costs, 140.0, convs)]
    assert (0, 4) in among
    bad = [
        replace(c, damage=9.0) if c.form == Separate("dw-pw", 4) else c
        for c in layers[1].candidates
    ]
    layers[1] = replace(layers[1], candidates=tuple(bad))
    chosen = run_rounds(MadeUpTrials({}), layers, costs, 140.0, silent, rounds=1)
    among = [choice.picks for choice in competing_plans(chosen, layers, costs, 140.0, convs)]
    assert (0, 4) not in among


def test_a_plan_is_refined_before_it_is_chosen(monkeypatch):
    asked = []

    def noted(trials, layers, plans, progress):
        asked.append(len(plans))
        return best_measured(trials, layers, plans, progress)

    monkeypatch.setattr("sepify.planning.budgeted.best_measured", noted)
    monkeypatch.setattr(search, "QUICK", sepify.Refinement(steps=2, batch=16))
    sepify.plan(seeded(Plain(16)), calibration=images(96), budget=Budget(macs=0.4))
    assert asked[0] >= 2
