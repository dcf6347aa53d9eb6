"""Layers do not add up: a plan is solved, measured as a whole, and chosen anew, a few times.

Each layer's damages are taken times a factor of its own, 1 at first. A round solves the current
plan, each layer behind the errors of those before it, and from the same statistics the ranks next
to the chosen one; what those do to the whole network, over what they were expected to do, is the
layer's new factor. All that were chosen go on to the last choice (`run_off.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sepify.planning.knapsack import Choice, Table, choose, total
from sepify.planning.measurements import Candidate, Layer
from sepify.planning.trials import Workbench
from sepify.plans.form import Form
from sepify.process.progress import Progress

ROUNDS = 3
WIDEST = 8.0  # a factor is within 1/8 to 8: single measurements are noisy
SIGNIFICANT = 1e-6  # of the loss: smaller differences say nothing about a layer


def settle(
    bench: Workbench,
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
            break  # there is nobody to learn from what it does
        near = [_near(layer, pick) for layer, pick in zip(layers, choice.picks, strict=True)]
        loss, changed = _try(bench, layers, choice.picks, near, progress)
        factors = _corrected(factors, damages, choice.picks, near, loss, changed)
    return tuple(chosen.values())


def damage_table(layers: Sequence[Layer]) -> list[list[float]]:
    """Damages by layer and candidate."""
    return [[candidate.damage for candidate in layer.candidates] for layer in layers]


def chosen_forms(layers: Sequence[Layer], picks: Sequence[int]) -> dict[str, Form]:
    """The form of each convolution that `picks` separate, in execution order."""
    forms: dict[str, Form] = {}
    for layer, pick in zip(layers, picks, strict=True):
        if pick:
            forms |= dict.fromkeys(layer.names, layer.candidates[pick].form)
    return forms


def _try(
    bench: Workbench,
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
    loss, changed = bench.around(chosen_forms(layers, picks), others, progress)
    return loss, [changed.get(layer.names[0], []) for layer in layers]


def _near(layer: Layer, pick: int) -> list[int]:
    """The candidates of the same family, a step below and above the picked one."""
    taken = layer.candidates[pick]
    if not pick or len(layer.names) > 1:
        return []

    def beside(candidate: Candidate) -> bool:
        same = candidate.form.family == taken.form.family
        return same and abs(candidate.form.step - taken.form.step) == 1

    return [k for k, candidate in enumerate(layer.candidates) if beside(candidate)]


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
