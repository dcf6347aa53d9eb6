"""The multiple-choice knapsack: one candidate of each layer, the least damage within a budget.

    minimise    sum damage[l][k] x[l,k]
    subject to  sum over k of x[l,k] = 1 for each layer l,  sum cost[l][k] x[l,k] <= limit,
                x binary

solved exactly by branch and cut (HiGHS, Huangfu and Hall 2018, through scipy.optimize.milp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sepify.errors import PlanError
from sepify.planning.candidates import Candidate, Measurements
from sepify.plans.budget import OF_LOSS, Budget, Quantity

Table = Sequence[Sequence[float]]  # [layer][candidate]

TIME_LIMIT = 60.0  # seconds; a hundred layers of 18 candidates take well under two
# The solver stops within 1e-6 of the best objective, in absolute terms; in these units that is a
# billionth of the worst damage. Ties go to the cheaper: the whole budget weighs as much as a ten
# millionth of the worst damage.
WORST = 1e3
TIE = 1e-4
_UNITS = {"macs": "MACs", "params": "parameters", "size_mb": "bytes", "latency": "s"}


@dataclass(frozen=True)
class CostTable:
    """Costs by layer and candidate, and what the original costs in all. `besides` is what no choice
    changes (the weights of other layers, for a size)."""

    quantity: Quantity
    costs: Table
    original: float
    besides: float = 0.0

    @property
    def least(self) -> float:
        """The least possible, everything counted."""
        return least_cost(self.costs) + self.besides

    def words(self, value: float) -> str:
        """`value` with its unit."""
        if self.quantity == "latency":
            return f"{value * 1e3:.3f} ms"
        if self.quantity == "size_mb":
            return f"{value / 1e6:.3f} MB"
        return f"{value:,.0f} {_UNITS[self.quantity]}"


def cost_table(measurements: Measurements, quantity: Quantity) -> CostTable:
    """The costs that `quantity` is about: multiply-adds where it is about what is lost."""
    if quantity in OF_LOSS:
        quantity = "macs"
    costs = [
        [_cost(candidate, quantity, measurements.bytes_each) for candidate in layer.candidates]
        for layer in measurements.layers
    ]
    besides = float(measurements.other_bytes) if quantity == "size_mb" else 0.0
    return CostTable(quantity, costs, sum(row[0] for row in costs) + besides, besides)


def limit_of(table: CostTable, budget: Budget) -> float:
    """What the budget allows, in the table's unit. Raises PlanError, saying the least possible,
    where no choice of candidates is as cheap."""
    limit = budget.limit.of(table.original)
    if budget.quantity == "size_mb":
        limit *= 1e6
    if table.least > limit:
        share = table.least / table.original if table.original else 1.0
        raise PlanError(
            f"the budget {budget} cannot be met: it allows {table.words(limit)}, and the least "
            f"possible is {table.words(table.least)} ({share:.1%} of the original's "
            f"{table.words(table.original)})"
        )
    return limit


@dataclass(frozen=True)
class Choice:
    """Which candidate each layer takes, what that costs and damages in all, and the relative gap
    between that damage and the bound that the solver has proved (0: the very best)."""

    picks: tuple[int, ...]
    cost: float
    damage: float
    gap: float


def choose(damages: Table, costs: Table, limit: float) -> Choice:
    """The best choice whose costs add up to `limit` at most; among equals the cheaper one.

    Raises PlanError if even the cheapest candidates cost more, or the solver finds nothing in a
    minute.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # half a second to import
    from scipy.sparse import coo_array

    if least_cost(costs) > limit:
        raise PlanError(f"the least possible is {least_cost(costs):g}, more than {limit:g}")
    layers = [layer for layer, row in enumerate(damages) for _ in row]
    if not layers:
        return Choice((), 0.0, 0.0, 0.0)
    damage = np.array([value for row in damages for value in row])
    cost = np.array([value for row in costs for value in row])
    # in units of the limit and of the worst damage, so that the solver's tolerances mean the same
    weight = cost / (limit or 1.0)
    scale = float(np.abs(damage).max()) or 1.0
    objective = WORST * damage / scale + TIE * weight
    one_each = coo_array((np.ones(len(layers)), (layers, range(len(layers)))))
    result: Any = milp(
        objective,
        integrality=np.ones(len(layers)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(weight[None, :], -np.inf, 1.0),
        ],
        options={"time_limit": TIME_LIMIT, "mip_rel_gap": 0.0},
    )
    if result.x is None:
        raise PlanError(f"the solver found no plan: {result.message}")
    picks = _repaired(_picks(result.x, damages), damages, costs, limit)
    return Choice(
        picks, total(costs, picks), total(damages, picks), max(0.0, float(result.mip_gap or 0.0))
    )


def least_cost(costs: Table) -> float:
    """The sum of the cheapest candidates."""
    return float(sum(min(row) for row in costs))


def total(table: Table, picks: Sequence[int]) -> float:
    """The sum of the picked entries, one a layer."""
    return float(sum(row[pick] for row, pick in zip(table, picks, strict=True)))


def _picks(x: Any, damages: Table) -> tuple[int, ...]:
    picks, start = [], 0
    for row in damages:
        picks.append(int(np.argmax(x[start : start + len(row)])))
        start += len(row)
    return tuple(picks)


def _repaired(
    picks: tuple[int, ...], damages: Table, costs: Table, limit: float
) -> tuple[int, ...]:
    """`picks` within `limit` to the last unit: the solver's constraint holds to a millionth."""
    while total(costs, picks) > limit:
        swaps = [
            (damages[layer][k] - damages[layer][pick], layer, k)
            for layer, pick in enumerate(picks)
            for k in range(len(costs[layer]))
            if costs[layer][k] < costs[layer][pick]
        ]
        _, layer, k = min(swaps)
        picks = (*picks[:layer], k, *picks[layer + 1 :])
    return picks


def _cost(candidate: Candidate, quantity: Quantity, bytes_each: int) -> float:
    cost = candidate.cost
    if quantity == "params":
        return float(cost.params)
    if quantity == "size_mb":
        return float(cost.params * bytes_each)
    if quantity == "latency":
        return cost.seconds or 0.0
    return float(cost.macs or 0)
