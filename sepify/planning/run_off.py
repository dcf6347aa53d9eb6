"""The last choice, among whole plans as they will be used: solved, refined, and measured.

All are solved and measured on more images than the rounds look at. Refinement makes up for much of
what least squares leaves, and not for the same share in every layer: plans that are close before it
may change places. So the best are refined as well, each for a few steps, and measured once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sepify.calibration.refine import Refinement
from sepify.factorize.factors import Factors
from sepify.planning.knapsack import Choice
from sepify.planning.measurements import Layer
from sepify.planning.search import chosen_forms
from sepify.planning.trials import Workbench
from sepify.process.progress import Progress

FINALISTS = 2
# A finalist loses at most so many times as much as the best before refinement: of 23 plans that
# were refined (judged at temperature 1), none that lost more than 1.13 times as much came first.
NEAR = 1.25
FINAL_IMAGES = 1_024  # two in three to solve and refine on, one in three to judge
# Enough steps to see what refinement makes of a plan, and a fraction of what conversion takes.
QUICK = Refinement(steps=40)


@dataclass(frozen=True)
class Tried:
    """A choice, its factors, and its loss, measured as a whole, before refinement."""

    choice: Choice
    factors: dict[str, Factors]
    measured: float


def run_off(
    bench: Workbench, layers: Sequence[Layer], entrants: Sequence[Choice], progress: Progress
) -> Tried:
    """Of `entrants` the one that measures best: as solved, and where several are close, refined."""
    tried = []
    for number, choice in enumerate(entrants):
        progress("measuring whole plans", number, len(entrants))
        factors = bench.factors(chosen_forms(layers, choice.picks), progress)
        tried.append(Tried(choice, factors, bench.lost(factors, progress)))
    tried.sort(key=lambda each: each.measured)
    finalists = [each for each in tried[:FINALISTS] if each.measured <= NEAR * tried[0].measured]
    if len(finalists) == 1:
        return finalists[0]
    losses = []
    for number, each in enumerate(finalists):
        progress("refining finalists", number, len(finalists))
        losses.append(bench.lost(bench.refined(each.factors, QUICK, progress), progress))
    return finalists[losses.index(min(losses))]
