"""A converted network at the precision that was asked for, and the plan that says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import fx

from sepify.capture.network import Network
from sepify.errors import PlanError, UsageError
from sepify.graph.sound import require_finite_result, verify_conversion
from sepify.judging.heldout import Split
from sepify.passes.cast import Cast
from sepify.passes.runner import run_passes
from sepify.plans.plan import Decision, Plan
from sepify.plans.precision import HALVES, INTEGERS, PRECISIONS, Precision
from sepify.process.progress import Progress
from sepify.quantising.quantisation import LayerPrecision, Quantisation
from sepify.quantising.quantize import quantise_network
from sepify.quantising.recipe import Recipe

DTYPES: dict[Precision, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class AtPrecision:
    """The network, its plan, and what was quantised; None in floating point."""

    graph_module: fx.GraphModule
    plan: Plan
    quantisation: Quantisation | None = None


def with_precision(plan: Plan, precision: Precision | None) -> Plan:
    """`plan` at the precision asked for; None leaves each layer's to the plan.

    Raises:
        UsageError: there is no such precision, it contradicts the plan, or the network is to be
            trained before it is quantised.
        PlanError: layers in float16 or bfloat16 beside others.
    """
    planned = {decision.precision for decision in plan}
    if precision is not None:
        if precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise UsageError(f"precision {precision!r} is not known; choose one of {known}")
        if not planned <= {"float32"} and planned != {precision}:
            raise UsageError(
                f"precision {precision!r} contradicts the plan, which says "
                f"{' and '.join(sorted(planned))}: leave it out, or change the plan"
            )
        plan = replace(
            plan, decisions=tuple(replace(d, precision=precision) for d in plan.decisions)
        )
        planned = {precision}
    if planned & HALVES and len(planned) > 1:
        raise PlanError("float16 and bfloat16 are for all layers alike: change the plan")
    if planned & INTEGERS and (plan.style != "linear" or plan.width != 1):
        raise UsageError(
            f"{plan.shape} is to be trained before it is quantised: distil it, then sepify.quantize"
        )
    return plan


def at_precision(
    network: Network,
    plan: Plan,
    precision: Precision | None,
    split: Split | None,
    note: Progress | None,
) -> AtPrecision:
    """The network, which was converted by `plan`, at the plan's precision; `precision` is that of a
    network without convolutions. Raises UsageError without images where they are needed."""
    planned = {decision.precision for decision in plan} or {precision or "float32"}
    if planned <= {"float32"}:
        return AtPrecision(network.graph_module, plan)
    if planned & HALVES:
        return AtPrecision(_cast(network, planned.pop()), plan)
    if split is None:
        raise UsageError("int8 needs calibration images, to find scales: give a few hundred")
    bits: Recipe = Recipe(4 if "W4A8" in planned else 8)
    floating = _patterns(d for d in plan if d.precision == "float32")
    eight = _patterns(d for d in plan if d.precision == "int8")
    made = quantise_network(network, bits, floating, note, split, eight)
    record: Quantisation = made.meta["sepify"]
    decisions = tuple(_found(decision, record) for decision in plan)
    done = replace(plan, decisions=decisions)
    return AtPrecision(made, done, record.with_plan(done))


def _cast(network: Network, precision: Precision) -> fx.GraphModule:
    made = run_passes(network.graph_module, (Cast(DTYPES[precision]),)).graph_module
    require_finite_result(made)
    batches = network.batches or (() if network.inputs is None else (network.inputs,))
    for batch in batches:
        verify_conversion(network.graph_module, made, batch)
    return made


def _patterns(decisions: Iterable[Decision]) -> tuple[str, ...]:
    return tuple(decision.name for decision in decisions)


def _found(decision: Decision, record: Quantisation) -> Decision:
    """The decision with the precision that its layers got."""
    layers = [each for each in record.layers if _inside(each, decision.name)]
    floating = [layer for layer in layers if layer.precision == "float32"]
    if floating or not layers:
        why = floating[0].reason if floating else "no layer of it is left"
        told = decision.reason if decision.precision == "float32" else f"{decision.reason}; {why}"
        return replace(decision, precision="float32", reason=told)
    fewest = "W4A8" if any(each.precision == "W4A8" for each in layers) else "int8"
    return replace(decision, precision=cast(Precision, fewest))


def _inside(layer: LayerPrecision, name: str) -> bool:
    return layer.name == name or layer.name.startswith(f"{name}.")
