"""Choices -> decisions, each with its reason in words."""

from __future__ import annotations

from collections.abc import Sequence

from sepify.graph.convolutions import Convolution
from sepify.planning.candidates import Layer
from sepify.planning.knapsack import CostTable
from sepify.planning.ladders import ladder
from sepify.plans.costs import Cost
from sepify.plans.plan import Decision


def decide(
    layers: Sequence[Layer],
    picks: Sequence[int],
    convolutions: Sequence[Convolution],
    costs: dict[str, list[Cost]],
    table: CostTable,
    loss: str,
) -> tuple[Decision, ...]:
    """A decision for each convolution, in execution order. `costs` are those of each convolution's
    candidates by itself."""
    chosen = {
        name: (layer, row, pick)
        for layer, row, pick in zip(layers, table.costs, picks, strict=True)
        for name in layer.names
    }
    decisions = []
    for convolution in convolutions:
        layer, row, pick = chosen[convolution.name]
        taken = layer.candidates[pick]
        own = costs[convolution.name]
        reason = _rewritten(layer, pick, row, loss) if pick else _kept(layer, row, table, loss)
        decisions.append(
            Decision(
                convolution.name,
                taken.form,
                reason,
                convolution.kernel,
                own[0],
                own[pick],
                damage=taken.damage / len(layer.names),
            )
        )
    return tuple(decisions)


def _rewritten(layer: Layer, pick: int, row: Sequence[float], loss: str) -> str:
    taken = layer.candidates[pick]
    share = f"{row[pick] / row[0]:.0%} of its cost" if row[0] else "no cost"
    steps = ladder(layer, taken.form.family)
    below = [layer.candidates[k] for k in steps[: steps.index(pick)][-1:]]
    more = "".join(f"; {c.form.step_words} would lose {_loss(c.damage, loss)}" for c in below)
    told = f"{taken.form.extent(layer.kernel)}: {share}, loses {_loss(taken.damage, loss)}"
    return told + more


def _kept(layer: Layer, row: Sequence[float], table: CostTable, loss: str) -> str:
    if layer.reason is not None:
        return layer.reason
    cheaper = [k for k in range(1, len(row)) if row[k] < row[0]]
    if not cheaper:
        return f"no candidate is cheaper in {table.quantity}"
    best = min(cheaper, key=lambda k: layer.candidates[k].damage)
    candidate = layer.candidates[best]
    saved = table.words(row[0] - row[best])
    return (
        f"worth its cost: {candidate.form.words} would save {saved} and lose "
        f"{_loss(candidate.damage, loss)}"
    )


def _loss(damage: float, loss: str) -> str:
    return f"{damage:.2g} nats" if loss == "kl" else f"{damage:.2g} of the outputs' variance"
