"""The rules by which a converted network comes with a warning."""

from __future__ import annotations

import math
from collections.abc import Callable

from sepify.judging.fidelity import Fidelity
from sepify.judging.number_words import interval, percent
from sepify.plans.plan import Plan

AGREEMENT = 0.9  # with the original's top-1 answers; below, one answer in ten is another
OUTPUT_ERROR = 0.5  # sum (y - y')^2 / sum y^2; above, the outputs are more noise than the original
# This share of the images gets one answer, and at most half as many get others as the original
# gives: images that are all of one kind are no fault of the network.
ONE_ANSWER = 0.95
SPREAD = 0.1  # variance of the outputs over the images, against the original's
# Squared error of a layer's outputs on held-out images, relative to their variance: a constant
# would have 1.
LAYER_ERROR = 0.8

Rule = Callable[[Fidelity, str], str | None]


def doubts(fidelity: Fidelity | None, plan: Plan | None, where: str = "images") -> tuple[str, ...]:
    """Return a warning for each rule that the network breaks.

    Args:
        fidelity: Measured on the images that `where` names; None where it was not measured.
        plan: Its layers' errors are judged too.
        where: The images, in words.
    """
    found = [] if fidelity is None else [rule(fidelity, where) for rule in RULES]
    found.append(_broken_layers(plan))
    return tuple(sentence for sentence in found if sentence is not None)


def unclaimed(why: str) -> str:
    """The sentence that stands in the place of a figure."""
    return f"No fidelity is claimed: {why}."


def _agreement(given: Fidelity, where: str) -> str | None:
    if given.agreement is None or given.agreement.value >= AGREEMENT:
        return None
    return (
        f"The converted network gives the original's top-1 answer on only "
        f"{percent(given.agreement.value, 1)} (95 %: {interval(given.agreement)}) of "
        f"{given.inputs:,} {where}: a higher rank, a budget or distillation brings it closer."
    )


def _output_error(given: Fidelity, where: str) -> str | None:
    error = given.relative_error
    if error is None or error <= OUTPUT_ERROR:
        return None
    return (
        f"The outputs' squared error is {error:.2g} times the original's outputs squared, on "
        f"{given.inputs:,} {where}: little of the original is left."
    )


def _one_answer(given: Fidelity, where: str) -> str | None:
    if given.commonest is None:
        return None
    before, after = given.commonest
    if after < ONE_ANSWER or after <= before or 1 - after > (1 - before) / 2:
        return None
    return (
        f"The converted network gives one and the same answer on {percent(after, 1)} of "
        f"{given.inputs:,} {where}, the original its commonest on {percent(before, 1)}."
    )


def _collapsed(given: Fidelity, where: str) -> str | None:
    if given.spread is None or given.spread >= SPREAD:
        return None
    return (
        f"The converted network's outputs hardly vary over {given.inputs:,} {where}: their "
        f"variance is {percent(given.spread, 1)} of the original's."
    )


RULES: tuple[Rule, ...] = (_agreement, _output_error, _one_answer, _collapsed)


def _broken_layers(plan: Plan | None) -> str | None:
    errors = {d.name: d.heldout_error for d in plan.rewritten} if plan is not None else {}
    broken = {
        name: error
        for name, error in errors.items()
        if error is not None and (error >= LAYER_ERROR or math.isnan(error))
    }
    if not broken:
        return None
    worst = max(broken, key=lambda name: broken[name])
    others = f" and {len(broken) - 1} other layer(s)" if len(broken) > 1 else ""
    return (
        f"The error of '{worst}'{others} is of the order of the signal ({broken[worst]:.2f} of its "
        "outputs' variance, on images held out of solving it): keep such layers, or give them a "
        "higher rank."
    )
