"""plan.json: a plan as a file that a person can read, edit and convert with again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sepify.errors import PlanError
from sepify.factorize.factors import ORDERS
from sepify.planning.plan import METHODS, Cost, Decision, Plan
from sepify.storage import read_json, write_json

FORMAT = "sepify-plan"
VERSION = 1


def save_plan(plan: Plan, path: Path | str) -> None:
    """Write `plan` as JSON, whole or not at all."""
    write_json(path, plan_to_dict(plan))


def load_plan(path: Path | str) -> Plan:
    """Read a plan. Raises FileError if it is not JSON, PlanError naming the entry at fault."""
    try:
        return plan_from_dict(read_json(path))
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """`plan` in plain JSON types, keys in a stable order."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "method": plan.method,
        "batchnorm_reestimated": plan.batchnorm,
        "convolutions": [_entry(decision) for decision in plan],
    }


def _entry(decision: Decision) -> dict[str, Any]:
    return {
        "name": decision.name,
        "action": decision.action,
        "order": decision.order,
        "rank": decision.rank,
        "reason": decision.reason,
        "kernel": list(decision.kernel),
        "macs": [decision.before.macs, decision.after.macs],
        "params": [decision.before.params, decision.after.params],
        "error": decision.error,
        "heldout_error": decision.heldout_error,
        "block_error": decision.block_error,
    }


def plan_from_dict(document: Any) -> Plan:
    """The plan in a document that `plan_to_dict` made or a person edited. Raises PlanError.

    `reason`, `macs`, `params` and `error` are notes: they may be left out.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise PlanError(f'not a plan: "format" is not "{FORMAT}"')
    if document.get("version") != VERSION:
        raise PlanError(f"plan version {document.get('version')!r}; this sepify reads {VERSION}")
    entries = document.get("convolutions")
    if not isinstance(entries, list):
        raise PlanError('"convolutions" is not a list')
    decisions = tuple(_decision(entry, index) for index, entry in enumerate(entries, 1))
    names = [decision.name for decision in decisions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PlanError(f"'{twice}' is listed twice")
    method = document.get("method")
    if method is not None and method not in METHODS:
        raise PlanError(f'"method" is {method!r}, none of {", ".join(METHODS)} or null')
    return Plan(decisions, method, bool(document.get("batchnorm_reestimated", False)))


def _decision(entry: Any, index: int) -> Decision:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise PlanError(f"convolution {index} has no name")
    name = entry["name"]
    action, order, rank = entry.get("action"), entry.get("order"), entry.get("rank")
    if action not in ("keep", "separate"):
        raise PlanError(f'\'{name}\': action {action!r} is neither "keep" nor "separate"')
    if action == "separate":
        if order not in ORDERS:
            raise PlanError(f"'{name}': order {order!r} is none of {', '.join(ORDERS)}")
        if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
            raise PlanError(f"'{name}': rank {rank!r} is not a whole number from 1")
    try:
        macs, params = entry.get("macs", (None, None)), entry.get("params", (0, 0))
        before, after = zip(macs, params, strict=True)
        return Decision(
            name,
            action,
            str(entry.get("reason", "")),
            tuple(int(extent) for extent in entry.get("kernel", ())),
            Cost(*before),
            Cost(*after),
            order,
            rank,
            entry.get("error"),
            entry.get("heldout_error"),
            entry.get("block_error"),
        )
    except (TypeError, ValueError) as error:
        raise PlanError(f"'{name}': cannot be read ({error})") from error
