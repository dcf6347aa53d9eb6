"""The whole curve of cost against damage, from one set of measurements."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import log10
from typing import Any

from sepify.planning.candidates import Measurements
from sepify.planning.knapsack import Choice, CostTable, choose, cost_table
from sepify.planning.search import damage_table
from sepify.plans.budget import Quantity
from sepify.plans.styles import Style

FORMAT = "sepify-frontier"
VERSION = 2  # 1 had no style and no multipliers
POINTS = 24
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class FrontierPoint:
    """The best choice at a cost: `share` of the original's, the predicted loss of the outputs, the
    solver's gap, and what each layer does ("kept", "dw-pw at rank 2"), by name."""

    cost: float
    share: float
    damage: float
    gap: float
    choices: dict[str, str]


@dataclass(frozen=True)
class Frontier:
    """Points from the cheapest plan to the original network, none worse and dearer than another.
    `loss` is "kl", nats, or "relative", a share of the outputs' variance.

    With a `width` below 1 or a `resolution`, costs are compared with the original at full width and
    size, and the loss is against the thinned network, at that size, before training.
    """

    quantity: Quantity
    loss: str
    original: float
    points: tuple[FrontierPoint, ...]
    style: Style = "linear"
    width: float = 1.0
    resolution: tuple[int, int] | None = None

    def of_original(self, original: float) -> Frontier:
        """The same beside an original that costs `original`."""
        points = tuple(replace(p, share=p.cost / original) for p in self.points)
        return replace(self, original=original, points=points)

    def to_dict(self) -> dict[str, Any]:
        """In plain JSON types, keys in a stable order."""
        points = [asdict(point) for point in self.points]
        return {
            "format": FORMAT,
            "version": VERSION,
            "style": self.style,
            "width": self.width,
            "resolution": None if self.resolution is None else list(self.resolution),
            "quantity": self.quantity,
            "loss": self.loss,
            "original": self.original,
            "points": points,
        }

    def sparkline(self) -> str:
        """Damage from the cheapest point to the dearest, one bar a point, on a logarithmic scale of
        four decades below the worst."""
        worst = max((point.damage for point in self.points), default=0.0)
        return "".join(_bar(point.damage, worst) for point in self.points)


def trace_frontier(
    measurements: Measurements, quantity: Quantity, points: int = POINTS
) -> Frontier:
    """Solve for budgets spread evenly on a logarithmic scale between the least possible and the
    original's cost. `quantity` is "macs", "params", "size_mb" or "latency"."""
    table = cost_table(measurements, quantity)
    choices = frontier_choices(measurements, points, table)
    found = [_point(measurements, table, choice) for choice in choices]
    return Frontier(quantity, measurements.loss, table.original, tuple(found))


def frontier_choices(
    measurements: Measurements, points: int, table: CostTable
) -> tuple[Choice, ...]:
    """The distinct choices of the frontier, the cheapest first."""
    damages = damage_table(measurements.layers)
    least, most = table.least, table.original
    choices: dict[tuple[int, ...], Choice] = {}
    for step in range(points):
        limit = most
        if least > 0 and step < points - 1:
            limit = least * (most / least) ** (step / (points - 1))
        choice = choose(damages, table.costs, max(limit, least) - table.besides)
        choices.setdefault(choice.picks, choice)
    kept: list[Choice] = []
    for choice in sorted(choices.values(), key=lambda c: (c.cost, c.damage)):
        if not kept or choice.damage < kept[-1].damage:
            kept.append(choice)
    return tuple(kept)


def _point(measurements: Measurements, table: CostTable, choice: Choice) -> FrontierPoint:
    cost = choice.cost + table.besides
    return FrontierPoint(
        cost,
        cost / table.original if table.original else 1.0,
        choice.damage,
        choice.gap,
        {
            name: layer.candidates[pick].form.words
            for layer, pick in zip(measurements.layers, choice.picks, strict=True)
            for name in layer.names
        },
    )


def _bar(damage: float, worst: float) -> str:
    floor = worst * 1e-4
    if worst <= 0 or damage <= floor:
        return BARS[0]
    return BARS[min(7, 1 + int(7 * (log10(damage / floor) / 4)))]
