"""The last choice, among whole plans as they will be used: solved, refined, and measured.

Refinement makes up for much of what least squares leaves, and not for the same share in every
layer: plans that are close before it may change places. So those that measured best unrefined are
refined, each for a few steps, and measured once more, on more images.
"""

from __future__ import annotations

from collections.abc import Sequence

from sepify.calibration.refine import Refinement
from sepify.planning.measurements import Layer
from sepify.planning.rounds import Tried, chosen_forms
from sepify.planning.workbench import Workbench
from sepify.progress import Progress

FINALISTS = 3
# A finalist loses at most so many times as much as the best before refinement: of 23 plans that
# were refined, none that lost more than 1.13 times as much came first.
NEAR = 1.25
FINAL_IMAGES = 1_024  # two in three to solve and refine on, one in three to judge
# Enough steps to see what refinement makes of a plan, and a fraction of what conversion takes.
QUICK = Refinement(steps=40)


def run_off(
    bench: Workbench, layers: Sequence[Layer], tried: Sequence[Tried], progress: Progress
) -> Tried:
    """Of the first few of `tried` (best first), where they are close, the one that measures best
    once refined."""
    finalists = [each for each in tried[:FINALISTS] if each.measured <= NEAR * tried[0].measured]
    if len(finalists) == 1:
        return finalists[0]
    losses = []
    for number, each in enumerate(finalists):
        progress("refining finalists", number, len(finalists))
        losses.append(bench.refined(chosen_forms(layers, each.choice.picks), QUICK, progress))
    return finalists[losses.index(min(losses))]
