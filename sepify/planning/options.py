"""Options beside a plan: one that says something else than the plan, or nothing, is refused."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from sepify.errors import UsageError
from sepify.graph.convolutions import Convolution
from sepify.planning.uniform import Selection, patterns_and_filter, refusals
from sepify.plans.equal_cost import Family
from sepify.plans.forms import Separate, full_rank
from sepify.plans.plan import Plan


class Unset(Enum):
    """The value of an option that was not given, where None means something."""

    UNSET = "not given"


UNSET: Final = Unset.UNSET
Rank = int | Unset | None
"""Separable terms a channel; None for full rank; 1 where it is not given."""


def rank_of(rank: Rank) -> int | None:
    """The rank that an option says, given or not."""
    return 1 if isinstance(rank, Unset) else rank


def require_agreeing(
    plan: Plan,
    convolutions: Sequence[Convolution],
    rank: Rank,
    family: Family | None,
    keep: Selection,
) -> None:
    """Raise UsageError where an option contradicts what `plan` does to a convolution, PlanError for
    a `keep` pattern that matches nothing."""
    refused = refusals(convolutions, *patterns_and_filter(keep))
    for decision in plan.rewritten:
        form = decision.form
        does = "separates" if isinstance(form, Separate) else "rewrites"
        where = f"the plan, which {does} '{decision.name}'"
        if decision.name in refused:
            raise UsageError(f"{refused[decision.name]}: this contradicts {where}; change one")
        if family is not None and family != form.family:
            raise UsageError(f"form {family!r} contradicts {where} as {form.family}: leave it out")
        if isinstance(rank, Unset):
            continue
        if not isinstance(form, Separate):
            raise UsageError(f"rank {rank} contradicts {where} as {form.words}: leave it out")
        highest = full_rank(decision.kernel, form.order)
        if form.rank != (highest if rank is None else min(rank, highest)):
            raise UsageError(f"rank {rank} contradicts {where} at rank {form.rank}: leave it out")
