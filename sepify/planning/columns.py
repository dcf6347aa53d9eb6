"""The column of costs that a budget is about, and what it allows."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.errors import PlanError
from sepify.planning.knapsack import Table, least_cost
from sepify.planning.measurements import Candidate, Measurements
from sepify.plans.budget import Budget, Quantity

_UNITS = {"macs": "MACs", "params": "parameters", "size_mb": "bytes", "latency": "s"}


@dataclass(frozen=True)
class Column:
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


def column_of(measurements: Measurements, quantity: Quantity) -> Column:
    """The costs that `quantity` is about: multiply-adds where it is an accuracy drop."""
    if quantity == "accuracy_drop":
        quantity = "macs"
    costs = [
        [_cost(candidate, quantity, measurements.bytes_each) for candidate in layer.candidates]
        for layer in measurements.layers
    ]
    besides = float(measurements.other_bytes) if quantity == "size_mb" else 0.0
    return Column(quantity, costs, sum(row[0] for row in costs) + besides, besides)


def limit_of(column: Column, budget: Budget) -> float:
    """What the budget allows, in the column's unit. Raises PlanError, saying the least possible,
    where no choice of candidates is as cheap."""
    limit = budget.limit.of(column.original)
    if budget.quantity == "size_mb":
        limit *= 1e6
    if column.least > limit:
        share = column.least / column.original if column.original else 1.0
        raise PlanError(
            f"the budget {budget} cannot be met: it allows {column.words(limit)}, and the least "
            f"possible is {column.words(column.least)} ({share:.1%} of the original's "
            f"{column.words(column.original)})"
        )
    return limit


def _cost(candidate: Candidate, quantity: Quantity, bytes_each: int) -> float:
    cost = candidate.cost
    if quantity == "params":
        return float(cost.params)
    if quantity == "size_mb":
        return float(cost.params * bytes_each)
    if quantity == "latency":
        return cost.seconds or 0.0
    return float(cost.macs or 0)
