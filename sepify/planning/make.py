"""make_plan(): uniform, or the best within a budget. Public as `sepify.plan`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from sepify.capture import Captured, Model, capture
from sepify.errors import UsageError
from sepify.graph.batches import Batch, Calibration, calibration_batches, on_device_of
from sepify.graph.inputs import require_tensors
from sepify.graph.sound import require_finite_weights, require_taken
from sepify.judging.heldout import Split, hold_out, image_marks
from sepify.planning.options import UNSET, Rank, rank_of
from sepify.planning.reduced import Reduced, budget_for, reduce_network, related_to_original
from sepify.planning.uniform import Filter, plan_uniform
from sepify.plans.budget import Budget
from sepify.plans.forms import Order
from sepify.plans.plan import Plan
from sepify.plans.styles import STYLES, Style
from sepify.process.progress import Progress, guarded
from sepify.process.state import keeps_process_state

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm
    from sepify.planning.budgeted import Known


@dataclass(frozen=True)
class Wish:
    """What is asked of a plan: one order and rank for all, or a budget. As in `make_plan`."""

    rank: Rank = UNSET
    order: Order | None = None  # "dw-pw"
    budget: Budget | None = None
    keep: tuple[str, ...] = ()
    filter_fn: Filter | None = None
    labelled: tuple[Tensor, Tensor] | None = None
    allow_costlier: bool = False
    style: Style = "linear"
    farm: Farm | None = None


@keeps_process_state
def make_plan(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    *,
    rank: Rank = UNSET,
    order: Order | None = None,
    budget: Budget | None = None,
    keep: Sequence[str] = (),
    filter_fn: Filter | None = None,
    calibration: Calibration | None = None,
    labelled: tuple[Tensor, Tensor] | None = None,
    allow_costlier: bool = False,
    style: Style = "linear",
    width: float = 1.0,
    resolution: float | tuple[int, int] | None = None,
    known: Known | None = None,
    holdout: float | None = None,
    farm: Farm | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Plan:
    """What `convert` would do to each convolution of `model`, and why; nothing is converted.

    model, example_inputs, rank, order, keep, filter_fn, style, width, resolution, progress
                    as in `sepify.convert`; a budget is of the original, at full width and size
    budget          choose order and rank of each layer so that the outputs are damaged least
    calibration     unlabelled inputs to plan by, at least 32, better a few hundred
    labelled        images and labels, for Budget(accuracy_drop=...); without them agreement with
                    the original counts, on the half of `calibration` that is not planned by
    allow_costlier  without a budget: separate even what costs more by it (full rank, say)
    known           measurements of earlier calls, and where to save new ones
    holdout         part of `calibration` that a plan for a budget is not chosen by, as in
                    `sepify.convert`, so that the conversion can be judged on it
    farm            the board for Budget(latency=..., target=...), from
                    `sepify.compiling.find_farm`; without it, latencies are this machine's

    Raises a `sepify.errors.SepifyError`; PlanError for a budget that cannot be met names the least
    possible.
    """
    inputs, batches = inputs_and_batches(model, example_inputs, calibration)
    captured = capture(model, inputs)
    require_finite_weights(captured.graph_module)
    require_steady(captured, batches, width, resolution)
    require_taken(captured.graph_module, batches)
    original = captured.graph_module
    split = None if batches is None else hold_out(batches, holdout)
    labelled = apart_from(split, labelled)
    wish = Wish(rank, order, budget, tuple(keep), filter_fn, labelled, allow_costlier, style, farm)
    fit = None if split is None else split.fit
    reduced = reduce_network(original, inputs, fit, width, resolution)
    if budget is None or split is None:
        return plan_reduced(reduced, wish, guarded(progress), known)
    below = split.below
    if known is not None:
        known, below = known.apart_from(below), known.least(below)
    return replace(plan_reduced(reduced, wish, guarded(progress), known), heldout=below)


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
    reduced: Reduced, wish: Wish, progress: Progress | None = None, known: Known | None = None
) -> Plan:
    """The plan for a captured model that was thinned, or is for smaller images, or neither; a
    budget is of the original."""
    fitting = (
        wish if wish.budget is None else replace(wish, budget=budget_for(wish.budget, reduced))
    )
    plan = plan_graph(reduced.network, reduced.inputs, reduced.batches, fitting, progress, known)
    if plan.outlook is not None:
        plan = replace(plan, outlook=replace(plan.outlook, budget=str(wish.budget)))
    return related_to_original(plan, reduced)


def plan_graph(
    original: fx.GraphModule,
    inputs: tuple[Tensor, ...] | None,
    batches: Sequence[Batch] | None,
    wish: Wish,
    progress: Progress | None = None,
    known: Known | None = None,
) -> Plan:
    """The plan for a captured model."""
    if wish.budget is None:
        if wish.farm is not None:
            raise UsageError("a board is for a budget in latency: give one, or leave the board out")
        if wish.labelled is not None:
            raise UsageError("labelled data is for a budget in accuracy_drop: leave it out")
        if known is not None:
            raise UsageError("known measurements are for a budget: leave them out")
        return plan_uniform(
            original,
            inputs,
            rank=rank_of(wish.rank),
            order=wish.order or "dw-pw",
            style=wish.style,
            keep=wish.keep,
            filter_fn=wish.filter_fn,
            allow_costlier=wish.allow_costlier,
        )
    if wish.rank is not UNSET or wish.order is not None or wish.allow_costlier:
        raise UsageError("a budget chooses orders and ranks: leave out rank, order, allow_costlier")
    if batches is None or inputs is None:
        raise UsageError("a budget needs data to plan by: give calibration images")
    if wish.style not in STYLES:
        raise UsageError(f"style {wish.style!r} is not known; choose one of {', '.join(STYLES)}")
    from sepify.planning.budgeted import plan_to_budget

    return plan_to_budget(
        original,
        inputs,
        wish.budget,
        batches,
        keep=wish.keep,
        filter_fn=wish.filter_fn,
        labelled=wish.labelled,
        style=wish.style,
        known=known,
        farm=wish.farm,
        progress=progress,
    )


def require_steady(
    captured: Captured,
    batches: Sequence[Batch] | None,
    width: float | None,
    resolution: float | tuple[int, int] | None,
) -> None:
    """Raise UsageError for a network with a state of its own where that stands in the way."""
    if width not in (None, 1) or resolution is not None:
        captured.require_no_state("a width or a resolution would have to change the state too")
    if batches is not None:
        captured.require_no_hidden_state("leave the calibration images out and give method='svd'")


def inputs_and_batches(
    model: Model,
    example_inputs: Tensor | tuple[Tensor, ...] | None,
    calibration: Calibration | None,
) -> tuple[tuple[Tensor, ...] | None, tuple[Batch, ...] | None]:
    """Example inputs, taken from the data where none are given, and the data in batches; on the
    device where the model is."""
    inputs = None if example_inputs is None else require_tensors(example_inputs)
    inputs = None if inputs is None else on_device_of(model, inputs)
    if calibration is None:
        return inputs, None
    checked = calibration_batches(calibration, inputs=len(inputs) if inputs else 1, like=inputs)
    batches = tuple(on_device_of(model, batch) for batch in checked)
    if inputs is None:
        batches = tuple(tuple(_as_weights(model, t) for t in batch) for batch in batches)
    return inputs or tuple(tensor[:2] for tensor in batches[0]), batches


def _as_weights(model: Model, images: Tensor) -> Tensor:
    """Floating-point images in the type of the weights where that is float32 or float64: a network
    of fewer bits may well read more of them."""
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), images.dtype)
    wide = weights in (torch.float32, torch.float64) and images.is_floating_point()
    return images.to(weights) if wide else images
