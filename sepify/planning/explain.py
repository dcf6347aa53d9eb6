"""Choices -> decisions, each with its reason in words."""

from __future__ import annotations

from collections.abc import Sequence

from sepify.graph.convolutions import Convolution
from sepify.planning.columns import Column
from sepify.planning.measurements import Layer
from sepify.plans.forms import full_rank
from sepify.plans.plan import Cost, Decision


def decide(
    layers: Sequence[Layer],
    picks: Sequence[int],
    convolutions: Sequence[Convolution],
    costs: dict[str, list[Cost]],
    column: Column,
    loss: str,
) -> tuple[Decision, ...]:
    """A decision for each convolution, in execution order. `costs` are those of each convolution's
    candidates by itself."""
    chosen = {
        name: (layer, row, pick)
        for layer, row, pick in zip(layers, column.costs, picks, strict=True)
        for name in layer.names
    }
    decisions = []
    for convolution in convolutions:
        layer, row, pick = chosen[convolution.name]
        taken = layer.candidates[pick]
        own = costs[convolution.name]
        reason = _separated(layer, pick, row, loss) if pick else _kept(layer, row, column, loss)
        decisions.append(
            Decision(
                convolution.name,
                "separate" if pick else "keep",
                reason,
                convolution.kernel,
                own[0],
                own[pick],
                taken.order,
                taken.rank,
                damage=taken.damage / len(layer.names),
            )
        )
    return tuple(decisions)


def _separated(layer: Layer, pick: int, row: Sequence[float], loss: str) -> str:
    taken = layer.candidates[pick]
    assert taken.order is not None
    highest = full_rank(layer.kernel, taken.order)
    share = f"{row[pick] / row[0]:.0%} of its cost" if row[0] else "no cost"
    others = {c.rank: c.damage for c in layer.candidates[1:] if c.order == taken.order}
    below = (taken.rank or 0) - 1
    more = f"; rank {below} would lose {_loss(others[below], loss)}" if below in others else ""
    return f"rank {taken.rank} of {highest}: {share}, loses {_loss(taken.damage, loss)}{more}"


def _kept(layer: Layer, row: Sequence[float], column: Column, loss: str) -> str:
    if layer.reason is not None:
        return layer.reason
    cheaper = [k for k in range(1, len(row)) if row[k] < row[0]]
    if not cheaper:
        return f"no candidate is cheaper in {column.quantity}"
    best = min(cheaper, key=lambda k: layer.candidates[k].damage)
    candidate = layer.candidates[best]
    saved = column.words(row[0] - row[best])
    return (
        f"worth its cost: {candidate.words} would save {saved} and lose "
        f"{_loss(candidate.damage, loss)}"
    )


def _loss(damage: float, loss: str) -> str:
    return f"{damage:.2g} nats" if loss == "kl" else f"{damage:.2g} of the outputs' variance"
