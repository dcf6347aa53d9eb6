"""The whole plans that compete: those of the rounds, some that are as likely, and two that need no
measurements.

Damages of single layers are uncertain, and they do not quite add up; so plans that the knapsack
would choose were the damages a little different are as likely the best. A few are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from sepify.planning.knapsack import Choice, Table, choose, total
from sepify.planning.measurements import Layer
from sepify.planning.search import damage_table
from sepify.planning.unmeasured import unmeasured_picks

DRAWS = 4
UNCERTAINTY = 0.35  # standard deviation of the logarithm of a layer's damages
# A plan that is expected to lose so many times as much as another is not worth measuring: of those
# tried, one that promised 1.4 times as much came close, and none of 1.7 and above.
HOPELESS = 1.5


def list_entrants(
    settled: Sequence[Choice],
    layers: Sequence[Layer],
    costs: Table,
    limit: float,
    convs: Mapping[str, nn.Conv2d],
    seed: int = 0,
) -> list[Choice]:
    """Choices within `limit`, each once, those of the rounds first."""
    damages = damage_table(layers)
    first = settled[0]  # the least expected damage
    entrants = {choice.picks: choice for choice in settled}
    drawn = [_drawn(damages, costs, limit, seed + number) for number in range(DRAWS)]
    for picks in (*drawn, *unmeasured_picks(layers, costs, limit, convs)):
        damage = total(damages, picks)
        if damage <= HOPELESS * first.damage:
            gap = 1 - (1 - first.gap) * first.damage / damage if damage else 0.0
            entrants.setdefault(picks, Choice(picks, total(costs, picks), damage, gap))
    return list(entrants.values())


def _drawn(damages: Table, costs: Table, limit: float, seed: int) -> tuple[int, ...]:
    factors = np.random.default_rng(seed).lognormal(0.0, UNCERTAINTY, len(damages))
    scaled = [[d * float(f) for d in row] for row, f in zip(damages, factors, strict=True)]
    return choose(scaled, costs, limit).picks
