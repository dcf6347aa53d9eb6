"""The plans that measured ones must not lose to, and the last choice among whole plans."""

import torch
from nets import Plain, images, seeded
from torch import nn

import sepify
from sepify.planning import run_off as run_off_file
from sepify.planning.budget import Budget
from sepify.planning.knapsack import Choice
from sepify.planning.measurements import Candidate, Layer
from sepify.planning.plan import Cost
from sepify.planning.rounds import Tried, settle
from sepify.planning.run_off import FINALISTS, run_off
from sepify.planning.unmeasured import energy_picks, uniform_picks, unmeasured_picks


def layer(name: str, ranks: int = 4) -> Layer:
    separated = [Candidate("dw-pw", rank, Cost(10 * rank, 0), 1 / rank) for rank in range(1, ranks)]
    other = Candidate("pw-dw", 1, Cost(10, 0), 2.0)
    return Layer((name,), (), (Candidate(None, None, Cost(100, 0), 0.0), other, *separated))


LAYERS = [layer("stem"), layer("a"), layer("b"), layer("c", ranks=2)]
COSTS = [[float(c.cost.macs or 0) for c in each.candidates] for each in LAYERS]


def ranks(picks) -> list[int | None]:
    return [layer.candidates[pick].rank for layer, pick in zip(LAYERS, picks, strict=True)]


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
    """A stand-in for the workbench, to which the uniform plan is the best, refined or not."""

    def __init__(self, best):
        self.best, self.refined_forms = best, []

    def around(self, chosen, others, progress):
        right = {name: rank for name, (_, rank) in chosen.items()} == self.best
        return (0.1 if right else 0.5), {name: [0.5] * len(forms) for name, forms in others.items()}

    def refined(self, chosen, refinement, progress):
        self.refined_forms.append(chosen)
        return self.around(chosen, {}, progress)[0]


def test_a_plan_from_elsewhere_that_measures_best_is_taken():
    uniform = uniform_picks(LAYERS, COSTS, 230)
    bench = Bench({"a": 1, "b": 2})
    settled = settle(bench, LAYERS, COSTS, 230.0, lambda *_: None, [uniform])
    assert settled.tried[0].choice.picks == uniform
    assert settled.tried[0].choice.cost == 230
    assert settled.tried[0].choice.gap > 0  # the knapsack would not have taken it
    assert settled.rounds == len(settled.tried) - 1
    assert run_off(bench, LAYERS, settled.tried, lambda *_: None).choice.picks == uniform


def test_refinement_may_change_which_plan_is_best():
    tried = [Tried(Choice((0, 0, 1 + n % 3, 0), 0.0, 0.0, 0.0), 1 + 0.1 * n) for n in range(5)]
    bench = Bench({"b": 2})
    taken = run_off(bench, LAYERS, tried, lambda *_: None)
    assert taken is tried[2]
    assert len(bench.refined_forms) == FINALISTS


def test_what_lost_far_more_is_not_refined_nor_is_the_only_one_left():
    losses = {1: 1.0, 3: 1.2, 2: 1.4}  # of candidates for 'b', as solved
    tried = [Tried(Choice((0, 0, k, 0), 0.0, 0.0, 0.0), loss) for k, loss in losses.items()]
    bench = Bench({"b": 2})
    assert run_off(bench, LAYERS, tried, lambda *_: None) is tried[1]
    assert len(bench.refined_forms) == 2
    assert run_off(bench, LAYERS, [tried[0], tried[2]], lambda *_: None) is tried[0]
    assert len(bench.refined_forms) == 2


def test_a_plan_is_refined_before_it_is_chosen(monkeypatch):
    asked = []

    def noted(bench, layers, tried, progress):
        asked.append(len(tried))
        return run_off(bench, layers, tried, progress)

    monkeypatch.setattr("sepify.planning.planner.run_off", noted)
    monkeypatch.setattr(run_off_file, "QUICK", sepify.Refinement(steps=2, batch=16))
    sepify.plan(seeded(Plain(16)), calibration=images(96), budget=Budget(macs=0.4))
    assert asked[0] >= 2
