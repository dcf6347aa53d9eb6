"""make_plan(): uniform, or the best within a budget. Public as `sepify.plan`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from sepify.capture.network import Network, make_network, require_batches, require_images
from sepify.errors import UsageError
from sepify.graph.batches import Calibration
from sepify.judging.heldout import Split, hold_out, image_marks
from sepify.planning.candidates import quick_forms_at_rank
from sepify.planning.options import UNSET, Rank, rank_of
from sepify.planning.reduced import Reduced, budget_for, reduce_network, related_to_original
from sepify.planning.uniform import Selection, patterns_and_filter, uniform
from sepify.plans.architecture import Architecture
from sepify.plans.budget import Budget
from sepify.plans.form import Form
from sepify.plans.plan import Plan
from sepify.plans.styles import STYLES
from sepify.process.progress import Progress, guarded
from sepify.process.renamed import renamed
from sepify.process.state import keeps_process_state

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm
    from sepify.planning.budgeted import Known


@dataclass(frozen=True)
class Wish:
    """What is asked of a plan: one rank for all, or a budget. As in `make_plan`."""

    rank: Rank = UNSET
    keep: Selection = ()
    budget: Budget | None = None
    architecture: Architecture = field(default_factory=Architecture)

    def choices(self, plan: Plan, network: Network) -> dict[str, tuple[Form, ...]]:
        """The forms that each rewritten convolution of a uniform `plan` may take instead, itself
        among them, where neither a form nor a style was asked for."""
        rank = rank_of(self.rank)
        asked = self.architecture
        if self.budget or rank is None or asked.form or asked.style not in (None, "linear"):
            return {}
        return {
            c.name: quick_forms_at_rank(rank, c, network.maps[c.name])
            for c in network.convolutions
            if c.name in network.maps and any(d.name == c.name for d in plan.rewritten)
        }


@renamed(
    order="architecture=Architecture(form=...)",
    style="architecture=Architecture(style=...)",
    width="architecture=Architecture(width=...)",
    resolution="architecture=Architecture(resolution=...)",
    allow_costlier="architecture=Architecture(costlier=...)",
    labelled="budget=Budget(accuracy_drop=..., labelled=...)",
    farm="budget=Budget(latency=..., target=..., farm=...)",
    filter_fn="keep=function, which answers True for what is left alone",
)
@keeps_process_state
def make_plan(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    *,
    calibration: Calibration | None = None,
    rank: Rank = UNSET,
    keep: Selection = (),
    budget: Budget | None = None,
    architecture: Architecture | None = None,
    holdout: float | None = None,
    known: Known | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Say what `convert` would do to each convolution of `model`, and why; nothing is converted.

    Args:
        model, example_inputs, rank, keep, architecture, progress: as in `sepify.convert`; a budget
            is of the original, at full width and size.
        calibration: unlabelled inputs to plan by, at least 32, better a few hundred.
        budget: choose the form of each layer and its size so that the outputs are damaged least.
        holdout: part of `calibration` that a plan for a budget is not chosen by, as in
            `sepify.calibration.solver.Solver`, so that the conversion can be judged on it.
        known: measurements of earlier calls, and where to save new ones.

    Returns:
        The plan: a decision for every convolution.

    Raises:
        SepifyError: PlanError for a budget that cannot be met names the least possible.
    """
    architecture = architecture or Architecture()
    settled = architecture.beside(None)
    given = calibration is not None and example_inputs is not None
    if budget is None and given and settled.width == 1:
        raise UsageError(
            "calibration images are for a budget or a width, not for a fixed rank: leave them out"
        )
    network = make_network(model, example_inputs, calibration)
    network.require_steady(settled.resized)
    require_images(network)
    split = None if network.batches is None else hold_out(network.batches, holdout)
    network = network.fitted_to(None if split is None else split.fit)
    reduced = reduce_network(network, settled.width, settled.resolution)
    wish, note = Wish(rank, keep, budget, architecture), guarded(progress)
    if budget is None or split is None:
        return plan_reduced(reduced, wish, note, known, split)
    below = split.below
    if known is not None:
        known, below = known.apart_from(below), known.least(below)
    return replace(plan_reduced(reduced, wish, note, known, split), heldout=below)


def apart_from(
    split: Split | None, labelled: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor] | None:
    """`labelled` images without those that are held out as calibration images."""
    if split is None or labelled is None or not split.heldout:
        return labelled
    images, labels = labelled
    if labels.dim() == 0 or len(labels) != len(images):
        return labelled  # refused later, in better words
    out = torch.cat([image_marks(batch) for batch in split.heldout])
    rest = ~torch.isin(image_marks((images,)), out)
    return images[rest.to(images.device)], labels[rest.to(labels.device)]


def plan_reduced(
    reduced: Reduced,
    wish: Wish,
    progress: Progress | None = None,
    known: Known | None = None,
    split: Split | None = None,
) -> Plan:
    """The plan for a network that was thinned, or is for smaller images, or neither; a budget is of
    the original. Labelled images that `split` holds out are not planned by."""
    budget = wish.budget
    if budget is None:
        return related_to_original(_uniform(reduced.network, wish, known), reduced)
    labelled = apart_from(split, budget.labelled)
    plan = _within(reduced.network, wish, budget_for(budget, reduced), labelled, progress, known)
    if plan.outlook is not None:
        plan = replace(plan, outlook=replace(plan.outlook, budget=str(budget)))
    return related_to_original(plan, reduced)


def _uniform(network: Network, wish: Wish, known: Known | None) -> Plan:
    if known is not None:
        raise UsageError("known measurements are for a budget: leave them out")
    keep, filter_fn = patterns_and_filter(wish.keep)
    return uniform(
        network.convolutions,
        network.maps,
        rank=rank_of(wish.rank),
        form=wish.architecture.form or "dw-pw",
        style=wish.architecture.style or "linear",
        keep=keep,
        filter_fn=filter_fn,
        allow_costlier=wish.architecture.costlier,
    )


def _within(
    network: Network,
    wish: Wish,
    budget: Budget,
    labelled: tuple[Tensor, Tensor] | None,
    progress: Progress | None,
    known: Known | None,
) -> Plan:
    asked = wish.architecture
    if wish.rank is not UNSET or asked.form is not None or asked.costlier:
        raise UsageError("a budget chooses forms and ranks: leave out rank, form, costlier")
    require_batches(network)
    style = asked.style or "linear"
    if style not in STYLES:
        raise UsageError(f"style {style!r} is not known; choose one of {', '.join(STYLES)}")
    from sepify.planning.budgeted import plan_to_budget

    keep, filter_fn = patterns_and_filter(wish.keep)
    return plan_to_budget(
        network,
        budget,
        keep=keep,
        filter_fn=filter_fn,
        labelled=labelled,
        style=style,
        known=known,
        farm=cast("Farm | None", budget.farm),
        progress=progress,
    )
