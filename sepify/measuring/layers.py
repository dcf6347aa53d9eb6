"""The layers of the original, each beside what the conversion made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sepify.measuring.cost import LayerCost, ModelCost
from sepify.plans.chains import Chain
from sepify.plans.file import plan_to_dict
from sepify.plans.forms import Separate
from sepify.plans.plan import Decision, Plan
from sepify.report.model import LayerRow, RankPoint

REST = "(everything else)"


def pair_layers(
    before: ModelCost,
    after: ModelCost,
    plan: Plan | None,
    moved: Mapping[str, float] | None = None,
    curves: Mapping[str, tuple[RankPoint, ...]] | None = None,
) -> tuple[LayerRow, ...]:
    """A row for each layer that multiplies, is in the plan, or is new in `after`; then one row
    for the rest, so that the rows add up to the totals.

    A layer `name` is paired with what stands at `name` or below it in `after`: a separated
    convolution is `name.depthwise` and `name.pointwise`. A convolution of the plan that is no
    module of `before` (a functional one) is listed at the plan's cost. `moved` are the measured
    errors and `curves` the rank curves, by name.
    """
    decisions = {decision.name: decision for decision in plan} if plan else {}
    seen = {layer.name for layer in before.layers}
    unclaimed = {layer.name: layer for layer in after.layers}
    rows = []
    for layer in before.layers:
        if layer.macs or layer.name in decisions:
            rows.append(_row(layer, _claim(layer.name, unclaimed), decisions.get(layer.name)))
    for name, decision in decisions.items():
        if name not in seen:
            cost = decision.before
            planned = LayerCost(name, "convolution", (), (), cost.macs or 0, cost.params)
            found = _claim(name, unclaimed)
            if not found:
                cost = decision.after
                found = [LayerCost(name, "convolution", (), (), cost.macs or 0, cost.params)]
            rows.append(_row(planned, found, decision))
    # a BatchNorm and the like stand in both networks, or were folded away: part of the rest
    rows += [
        _row(LayerCost(layer.name, layer.kind, layer.shape, (), 0, 0), [layer], None)
        for layer in unclaimed.values()
        if layer.macs and layer.name not in seen
    ]
    rest = LayerRow(
        name=REST,
        kind="",
        kernel=(),
        action=None,
        order=None,
        rank=None,
        reason="",
        macs_before=before.macs - sum(row.macs_before for row in rows),
        macs_after=after.macs - sum(row.macs_after for row in rows),
        params_before=before.params - sum(row.params_before for row in rows),
        params_after=after.params - sum(row.params_after for row in rows),
        error=None,
        heldout_error=None,
    )
    rows = [
        replace(
            row,
            measured_error=(moved or {}).get(row.name),
            curve=(curves or {}).get(row.name, ()),
        )
        for row in rows
    ]
    costs = (rest.macs_before, rest.macs_after, rest.params_before, rest.params_after)
    return (*rows, rest) if any(costs) else tuple(rows)


def plan_document(plan: Plan | None) -> dict[str, Any] | None:
    """The plan as plan.json holds it, for a report."""
    return None if plan is None else plan_to_dict(plan)


def _claim(name: str, unclaimed: dict[str, LayerCost]) -> list[LayerCost]:
    """Take what stands at or below `name` out of `unclaimed`."""
    mine = [other for other in unclaimed if other == name or other.startswith(f"{name}.")]
    return [unclaimed.pop(other) for other in mine]


def _row(before: LayerCost, after: Iterable[LayerCost], decision: Decision | None) -> LayerRow:
    after = list(after)
    form = decision.form if decision else None
    sized = form.step if isinstance(form, Separate | Chain) else None
    return LayerRow(
        name=before.name,
        kind=before.kind,
        kernel=decision.kernel if decision and decision.kernel else before.shape,
        action=decision.form.kind if decision else None,
        order=form.order if isinstance(form, Separate) else None,
        rank=sized,
        reason=decision.reason if decision else "",
        macs_before=before.macs,
        macs_after=sum(layer.macs for layer in after),
        params_before=before.params,
        params_after=sum(layer.params for layer in after),
        error=decision.error if decision else None,
        heldout_error=decision.heldout_error if decision else None,
        seconds_before=decision.before.seconds if decision else None,
        seconds_after=decision.after.seconds if decision else None,
    )
