"""The search for the plan of least damage within a cost.

1. Rounds. Damages do not add up over layers, so a plan is solved, measured as a whole, and chosen
   anew, a few times. Each layer's damages are taken times a factor of its own, 1 at first. A round
   solves the current plan, each layer behind the errors of those before it, and from the same
   statistics the forms one step beside the chosen one; what those do to the whole network, over
   what they were expected to do, is the layer's new factor.
2. Competing plans. Damages of single layers are uncertain, so plans that the knapsack would choose
   were the damages a little different are as likely the best: a few are drawn. Two plans that need
   no measurements (`reference_plans.py`) compete as well.
3. The last choice. All are solved and measured on more images than the rounds look at. Refinement
   makes up for much of what least squares leaves, and not for the same share in every layer: plans
   that are close before it may change places. So the best are refined as well, each for a few
   steps, and measured once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from sepify.calibration.refine import Refinement
from sepify.factorize.factors import Factors
from sepify.planning.candidates import Layer
from sepify.planning.knapsack import Choice, Table, choose, total
from sepify.planning.ladders import ladder
from sepify.planning.reference_plans import reference_picks
from sepify.planning.trials import Trials
from sepify.plans.form import Form
from sepify.process.progress import Progress

ROUNDS = 3
WIDEST = 8.0  # a factor is within 1/8 to 8: single measurements are noisy
SIGNIFICANT = 1e-6  # of the loss: smaller differences say nothing about a layer
DRAWS = 4
UNCERTAINTY = 0.35  # standard deviation of the logarithm of a layer's damages
# A plan that is expected to lose so many times as much as another is not worth measuring: of those
# tried, one that was expected to lose 1.4 times as much came close, and none of 1.7 and above.
FAR_WORSE = 1.5
FINALISTS = 2
# A finalist loses at most so many times as much as the best before refinement: of 23 plans that
# were refined (judged at temperature 1), none that lost more than 1.13 times as much came first.
NEAR = 1.25
FINAL_IMAGES = 1_024  # two in three to solve and refine on, one in three to judge
# Enough steps to see what refinement makes of a plan, and a fraction of what conversion takes.
QUICK = Refinement(steps=40)


def run_rounds(
    trials: Trials,
    layers: Sequence[Layer],
    costs: Table,
    limit: float,
    progress: Progress,
    rounds: int = ROUNDS,
) -> tuple[Choice, ...]:
    """What each round chooses, with the damage that was expected of it at first.

    Raises PlanError if nothing fits `limit`.
    """
    damages = damage_table(layers)
    factors = [1.0] * len(layers)
    chosen: dict[tuple[int, ...], Choice] = {}
    for number in range(rounds):
        progress("choosing", number, rounds)
        scaled = [[d * f for d in row] for row, f in zip(damages, factors, strict=True)]
        choice = choose(scaled, costs, limit)
        if choice.picks in chosen:
            break
        chosen[choice.picks] = replace(choice, damage=total(damages, choice.picks))
        if number == rounds - 1:
            break  # no round is left to use what would be found
        near = [_near(layer, pick) for layer, pick in zip(layers, choice.picks, strict=True)]
        loss, changed = _try(trials, layers, choice.picks, near, progress)
        factors = _corrected(factors, damages, choice.picks, near, loss, changed)
    return tuple(chosen.values())


def damage_table(layers: Sequence[Layer]) -> list[list[float]]:
    """Damages by layer and candidate."""
    return [[candidate.damage for candidate in layer.candidates] for layer in layers]


def chosen_forms(layers: Sequence[Layer], picks: Sequence[int]) -> dict[str, Form]:
    """The form of each convolution that `picks` rewrite, in execution order."""
    forms: dict[str, Form] = {}
    for layer, pick in zip(layers, picks, strict=True):
        if pick:
            forms |= dict.fromkeys(layer.names, layer.candidates[pick].form)
    return forms


def competing_plans(
    rounds_chosen: Sequence[Choice],
    layers: Sequence[Layer],
    costs: Table,
    limit: float,
    convs: Mapping[str, nn.Conv2d],
    seed: int = 0,
) -> list[Choice]:
    """Choices within `limit`, each once, those of the rounds first."""
    damages = damage_table(layers)
    first = rounds_chosen[0]  # the least expected damage
    plans = {choice.picks: choice for choice in rounds_chosen}
    drawn = [_drawn(damages, costs, limit, seed + number) for number in range(DRAWS)]
    for picks in (*drawn, *reference_picks(layers, costs, limit, convs)):
        damage = total(damages, picks)
        if damage <= FAR_WORSE * first.damage:
            gap = 1 - (1 - first.gap) * first.damage / damage if damage else 0.0
            plans.setdefault(picks, Choice(picks, total(costs, picks), damage, gap))
    return list(plans.values())


@dataclass(frozen=True)
class Tried:
    """A choice, its factors, and its loss, measured as a whole, before refinement."""

    choice: Choice
    factors: dict[str, Factors]
    measured: float


def best_measured(
    trials: Trials, layers: Sequence[Layer], plans: Sequence[Choice], progress: Progress
) -> Tried:
    """Return the plan that measures best: as solved, and where several are close, refined."""
    tried = []
    for number, choice in enumerate(plans):
        progress("measuring whole plans", number, len(plans))
        factors = trials.factors(chosen_forms(layers, choice.picks), progress)
        tried.append(Tried(choice, factors, trials.lost(factors, progress)))
    tried.sort(key=lambda each: each.measured)
    finalists = [each for each in tried[:FINALISTS] if each.measured <= NEAR * tried[0].measured]
    if len(finalists) == 1:
        return finalists[0]
    losses = []
    for number, each in enumerate(finalists):
        progress("refining finalists", number, len(finalists))
        losses.append(trials.lost(trials.refined(each.factors, QUICK, progress), progress))
    return finalists[losses.index(min(losses))]


def _try(
    trials: Trials,
    layers: Sequence[Layer],
    picks: Sequence[int],
    near: Sequence[Sequence[int]],
    progress: Progress,
) -> tuple[float, list[list[float]]]:
    others = {
        layer.names[0]: [layer.candidates[k].form for k in ks]
        for layer, ks in zip(layers, near, strict=True)
        if ks
    }
    loss, changed = trials.around(chosen_forms(layers, picks), others, progress)
    return loss, [changed.get(layer.names[0], []) for layer in layers]


def _near(layer: Layer, pick: int) -> list[int]:
    """The candidates of the same family, a step below and above the picked one."""
    if not pick or len(layer.names) > 1:
        return []
    steps = ladder(layer, layer.candidates[pick].form.family)
    at = steps.index(pick)
    return [*steps[max(0, at - 1) : at], *steps[at + 1 : at + 2]]


def _corrected(
    factors: Sequence[float],
    damages: Table,
    picks: Sequence[int],
    near: Sequence[Sequence[int]],
    loss: float,
    changed: Sequence[Sequence[float]],
) -> list[float]:
    """The geometric mean of each layer's old factor and of the one just seen."""
    corrected = []
    for layer, factor in enumerate(factors):
        row, pick = damages[layer], picks[layer]
        expected = sum(abs(row[k] - row[pick]) for k in near[layer])
        # a lower rank that helps, or a higher one that harms, is noise: counted as nothing
        seen = sum(
            max(0.0, (value - loss) * (1 if row[k] > row[pick] else -1))
            for k, value in zip(near[layer], changed[layer], strict=True)
        )
        if expected <= SIGNIFICANT * loss:
            corrected.append(factor)
            continue
        now = min(max(seen / expected, 1 / WIDEST), WIDEST)
        corrected.append((factor * now) ** 0.5)
    return corrected


def _drawn(damages: Table, costs: Table, limit: float, seed: int) -> tuple[int, ...]:
    factors = np.random.default_rng(seed).lognormal(0.0, UNCERTAINTY, len(damages))
    scaled = [[d * float(f) for d in row] for row, f in zip(damages, factors, strict=True)]
    return choose(scaled, costs, limit).picks
