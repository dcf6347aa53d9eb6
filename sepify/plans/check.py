"""Does a plan fit a model? Asked before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from sepify.errors import PlanError, UsageError
from sepify.graph.convolutions import Convolution
from sepify.plans.plan import Decision, Plan
from sepify.plans.styles import Style


def check_plan(plan: Plan, convolutions: Sequence[Convolution]) -> None:
    """Raise PlanError, naming the layer and how it differs, unless `plan` can be carried out on a
    model with these convolutions. A plan may be silent about a convolution: it is kept."""
    by_name = {convolution.name: convolution for convolution in convolutions}
    for decision in plan:
        convolution = by_name.get(decision.name)
        if convolution is None:
            raise PlanError(
                f"the plan names {decision.where}, which is no convolution of this model "
                f"({len(by_name)} there: {', '.join(list(by_name)[:3])}, ...)"
            )
        _check_kernel(decision, convolution)
        if decision.form.rewrites:
            _check_form(decision, convolution, plan.style)
    _check_ties(plan, by_name)


def without_kernels(plan: Plan) -> Plan:
    """`plan` for a thinned network, whose kernels are not those that it names."""
    return replace(plan, decisions=tuple(replace(d, kernel=()) for d in plan))


def _check_kernel(decision: Decision, convolution: Convolution) -> None:
    if decision.kernel and decision.kernel != convolution.kernel:
        raise PlanError(
            f"the plan was made for another model: {decision.where} has a kernel "
            f"{decision.kernel} in the plan and {convolution.kernel} in the model"
        )


def _check_form(decision: Decision, convolution: Convolution, style: Style) -> None:
    if convolution.obstacle is not None:
        raise PlanError(f"{decision.where} cannot be separated: {convolution.obstacle}")
    fault = decision.form.fault(convolution.kernel, style)
    if fault is not None:
        raise PlanError(f"{decision.where}: {fault}")


def _check_ties(plan: Plan, by_name: dict[str, Convolution]) -> None:
    """Convolutions that share one weight tensor must be treated alike, or the tie would break."""
    treatment: dict[int, Decision] = {}
    for decision in plan:
        module = by_name[decision.name].module
        if not isinstance(module, nn.Conv2d):
            continue
        first = treatment.setdefault(id(module.weight), decision)
        if first.form != decision.form:
            raise PlanError(
                f"{first.where} and {decision.where} share one weight, so the plan must treat "
                "them alike"
            )


def below_full_rank(plan: Plan, convolutions: Sequence[Convolution]) -> list[str]:
    """The convolutions of which `plan`, carried out from the weights alone, loses a part."""
    kernels = {convolution.name: convolution.kernel for convolution in convolutions}
    return [
        decision.name
        for decision in plan.rewritten
        if not decision.form.is_exact(kernels[decision.name])
    ]


def require_nothing_lost(lossy: Sequence[str]) -> None:
    """Raise UsageError where layers would lose a part and nobody asked for that."""
    if lossy:
        raise UsageError(
            f"'{lossy[0]}' and whatever else is below full rank would be made from the weights "
            "alone, which as a rule ruins a network: give calibration images (a few hundred, no "
            "labels), or ask for it with method 'svd', or for full rank (rank=None)"
        )
