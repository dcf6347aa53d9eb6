"""Plans that nobody has to measure anything for: what a measured one must not lose to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from sepify.factorize.svd import svd_error
from sepify.planning.candidates import Layer
from sepify.planning.knapsack import Table, total
from sepify.plans.forms import Separate

Picks = tuple[int, ...]  # the candidate that each layer takes


def reference_picks(
    layers: Sequence[Layer], costs: Table, limit: float, convs: Mapping[str, nn.Conv2d]
) -> list[Picks]:
    """Return the uniform, the even and the greedy plan, as far as they are within `limit`."""
    found = (
        uniform_picks(layers, costs, limit),
        even_picks(layers, costs, limit),
        energy_picks(layers, costs, limit, convs),
    )
    return [picks for picks in found if picks is not None]


def uniform_picks(layers: Sequence[Layer], costs: Table, limit: float) -> Picks | None:
    """dw-pw everywhere but in the first convolution, which is kept, as is usual: at the highest
    rank that `limit` allows for all, and at one more for as many of the last as it allows.
    None if rank 1 costs too much."""
    ranks = [by_rank(layer) for layer in layers]
    later = [index for index in range(1, len(layers)) if ranks[index]]
    best: Picks | None = None
    for rank in range(1, max((max(found) for found in ranks if found), default=0) + 1):
        for more in range(len(later) + 1):
            wanted = dict.fromkeys(later, rank)
            wanted |= dict.fromkeys(later[len(later) - more :], rank + 1)
            # a rank that is not among the candidates would cost more than to keep the layer
            picks = tuple(ranks[i].get(wanted.get(i, 0), 0) for i in range(len(layers)))
            if total(costs, picks) > limit:
                return best
            best = picks
    return best


def even_picks(layers: Sequence[Layer], costs: Table, limit: float) -> Picks | None:
    """In each layer but the first, which is kept, the candidate of least damage within a share of
    its cost, the same for all: the largest share that `limit` allows. None if none does."""
    shares = sorted({cost / row[0] for row in costs for cost in row[1:] if row[0]})

    def picked(share: float) -> Picks:
        picks = []
        for number, (layer, row) in enumerate(zip(layers, costs, strict=True)):
            within = [k for k in range(1, len(row)) if row[k] <= share * row[0]]
            damages = {k: layer.candidates[k].damage for k in within}
            picks.append(min(damages, key=damages.__getitem__) if number and damages else 0)
        return tuple(picks)

    fitting = [plan for plan in map(picked, shares) if total(costs, plan) <= limit]
    return fitting[-1] if fitting else None


def energy_picks(
    layers: Sequence[Layer], costs: Table, limit: float, convs: Mapping[str, nn.Conv2d]
) -> Picks | None:
    """In each layer the least dw-pw rank whose SVD loses no more than a share of the kernel's
    energy, the same for all: the least share that `limit` allows. None if none does.

    The usual way to choose ranks without data.
    """
    lost = []
    for layer in layers:
        found = by_rank(layer)
        weight = convs[layer.names[0]].weight if found else None
        lost.append({} if weight is None else {r: svd_error(weight, "dw-pw", r) for r in found})
    for threshold in sorted({error for errors in lost for error in errors.values()}):
        picks = []
        for layer, errors in zip(layers, lost, strict=True):
            enough = [rank for rank, error in errors.items() if error <= threshold]
            picks.append(by_rank(layer)[min(enough)] if enough else 0)
        if total(costs, picks) <= limit:
            return tuple(picks)
    return None


def by_rank(layer: Layer) -> dict[int, int]:
    """The number of each dw-pw candidate, by its rank."""
    return {
        candidate.form.rank: number
        for number, candidate in enumerate(layer.candidates)
        if isinstance(candidate.form, Separate) and candidate.form.order == "dw-pw"
    }
