"""convert(): a trained network in, a depthwise-separable one out. The whole job in one screen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, fx

from sepify.calibration.moments import MEMORY
from sepify.calibration.refine import Refinement
from sepify.calibration.solve import solve_by_svd, solve_on_data
from sepify.capture import Captured, Model, capture
from sepify.errors import FidelityWarning, UntrainedWarning, UsageError
from sepify.factorize.factors import Factors
from sepify.graph.batches import Batch, Calibration
from sepify.graph.convolutions import Convolution, survey
from sepify.graph.sound import (
    require_finite_result,
    require_finite_weights,
    require_taken,
    verify_conversion,
)
from sepify.judging.fidelity import Fidelity
from sepify.judging.heldout import Split, hold_out
from sepify.judging.unseen import Verdict, judge_unseen
from sepify.passes.complete_blocks import ADDED_NORMS, complete_blocks
from sepify.passes.pipeline import Step, run_passes
from sepify.passes.reestimate_batchnorm import reestimate_batchnorm
from sepify.passes.separate import separate_convolutions
from sepify.passes.settle_batchnorm import settle_batchnorm
from sepify.planning.make import (
    Wish,
    apart_from,
    inputs_and_batches,
    plan_reduced,
    require_steady,
)
from sepify.planning.options import UNSET, Rank, require_agreeing, require_alone
from sepify.planning.reduced import reduce_network
from sepify.planning.uniform import Filter
from sepify.plans.budget import Budget
from sepify.plans.check import check_plan, without_kernels
from sepify.plans.forms import Order
from sepify.plans.plan import METHODS, Method, Plan
from sepify.plans.styles import Style
from sepify.process.progress import Progress, guarded
from sepify.process.state import keeps_process_state

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm


@dataclass(frozen=True)
class Conversion:
    """What `convert` did; found as `converted.meta["sepify"]`.

    `fidelity` is measured on the calibration images that were held out of everything; None where
    none were, for the reason in `unjudged`.
    """

    plan: Plan
    front_end: str  # how the model was captured, and why that way
    notes: tuple[str, ...]  # what the user should know: assumptions, modes, hooks dropped
    fidelity: Fidelity | None = None
    warnings: tuple[str, ...] = ()  # what to know before the network is trusted
    unjudged: str = ""


@keeps_process_state
def convert(
    model: Model,
    *,
    rank: Rank = UNSET,
    order: Order | None = None,
    budget: Budget | None = None,
    plan: Plan | None = None,
    style: Style | None = None,
    width: float | None = None,
    resolution: float | tuple[int, int] | None = None,
    keep: Sequence[str] = (),
    filter_fn: Filter | None = None,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    calibration: Calibration | None = None,
    labelled: tuple[Tensor, Tensor] | None = None,
    method: Method | None = None,
    refine: Refinement | bool = True,
    memory: int = MEMORY,
    holdout: float | None = None,
    farm: Farm | None = None,
    progress: Progress | None = None,
) -> fx.GraphModule:
    """Rewrite the standard convolutions of `model` into depthwise + pointwise ones.

    model           nn.Module, fx.GraphModule, a loaded TorchScript module or ExportedProgram; it is
                    never changed
    rank            separable terms a channel, 1 if not given; None: full rank, the same function
                    exactly
    order           "dw-pw" (depthwise first; if not given) or "pw-dw"
    budget          instead: the best mixture of orders and ranks within it; needs calibration data
    plan            what to do to each convolution, from `sepify.plan` or a file; whatever else is
                    given and says otherwise is refused
    style           "linear" (the default); or "mobilenet" or "mobilenet-relu6": BatchNorm and ReLU
                    or ReLU6 between depthwise and pointwise, which is to be trained: `distill`
    width           share of the channels of every layer to go on with, by importance, rounded to
                    multiples of 8 (`thin_channels` says how); to be trained likewise
    resolution      of the images: a share such as 0.714, pixels of the shorter side, or (height,
                    width); costs, calibration and distillation are at this size
    keep            names or shell patterns of convolutions to leave alone, e.g. "layer1.*"
    filter_fn       filter_fn(module, name) -> False leaves a convolution alone
    example_inputs  one example batch; TorchScript needs it, multiply-adds in the plan come from it
    calibration     unlabelled inputs, a few hundred: a tensor (n, C, H, W) or a loader; it can be
                    left out only with method="svd", or where every layer stays at full rank
    labelled        images and labels for Budget(accuracy_drop=...); calibration data without them
    method          "least-squares" on the outputs (the default), or "svd" of the weights, which
                    as a rule leaves a network that has to be trained again
    refine          with least squares: improve each block further by gradient steps on its factors
                    against the original block's output; False leaves it out, it is the longer part
    memory          bytes for least squares: beyond it, values kept between layers go to a temporary
                    file, and layers whose covariance would be too large are solved without one
    holdout         share (below 1) or number of the calibration images that are held out of
                    everything, to measure fidelity on: 0 for none, and then none is claimed; by
                    default one in eight, at most 128, and none of fewer than 64
    farm            the board for Budget(latency=..., target=...), as in `sepify.plan`
    progress        progress(what, done, total), called as the work goes on

    Returns an ordinary GraphModule in the mode the model was in: `name.depthwise` and
    `name.pointwise` for each rewritten `name` (in style "mobilenet" `name.depthwise_bn`,
    `name.depthwise_act` and, where the network has none of its own, `name.pointwise_bn` and
    `name.pointwise_act` as well), every other key of the state_dict as it was, and a `Conversion`
    with the plan and the fidelity in `.meta["sepify"]`. With calibration data, "svd"
    re-estimates BatchNorm on it; "least-squares" solves biases too, and needs no such repair.

    Warns (CalibrationWarning) where the data are few for a layer, (UntrainedWarning) where the
    result needs training, and else (FidelityWarning) where it is far from the original, or nobody
    knows how far. Raises a `sepify.errors.SepifyError`: CaptureError, InputError,
    PlanError, UsageError, ConversionError, or DependencyError (a width needs Torch-Pruning).
    """
    if plan is not None and budget is not None:
        raise UsageError("a plan and a budget contradict each other: give one of them")
    require_alone(plan, {"labelled": labelled, "farm": farm})
    inputs, batches = inputs_and_batches(model, example_inputs, calibration)
    asked = method or (plan.method if plan else None)
    method = _method(method, plan, calibrated=batches is not None)

    captured = capture(model, inputs)
    original = captured.graph_module
    require_finite_weights(original)
    style, width, resolution = _shape(plan, style, width, resolution)
    require_steady(captured, batches, width, resolution)
    require_taken(original, batches)
    split = _held_out(batches, holdout, plan, memory)
    fit = None if split is None else split.fit
    reduced = reduce_network(original, inputs, fit, width, resolution)
    network, inputs, batches = reduced.network, reduced.inputs, reduced.batches
    if plan is None:
        labelled = apart_from(split, labelled)
        wish = Wish(rank, order, budget, tuple(keep), filter_fn, labelled, style=style, farm=farm)
        plan = plan_reduced(reduced, wish, guarded(progress))
    else:
        require_agreeing(plan, survey(original), rank, order, keep, filter_fn)
    check_plan(plan, survey(original))
    if network is not original:
        check_plan(without_kernels(plan), survey(network))
    lossy = _below_full_rank(plan, survey(network))
    if batches is None and asked is None and lossy:
        raise UsageError(
            f"'{lossy[0]}' and whatever else is below full rank would be made from the weights "
            "alone, which as a rule ruins a network: give calibration images (a few hundred, no "
            "labels), or ask for it with method 'svd', or for full rank (rank=None)"
        )
    batchnorm = method == "svd" and batches is not None
    plan = replace(
        plan,
        method=method,
        batchnorm=batchnorm,
        resolution=reduced.resolution,
        heldout=None if split is None else split.below,
    )

    if method == "least-squares" and batches is not None:
        options = Refinement() if refine is True else refine or None
        options = None if captured.keeps else options
        factors, plan = solve_on_data(network, plan, batches, guarded(progress), options, memory)
    else:
        factors = solve_by_svd(network, plan)
    converted = run_passes(network, conversion_steps(plan, factors, batches))
    require_finite_result(converted)

    if inputs is not None:
        verify_conversion(original, converted, inputs)
    plan = _counted(plan, converted)
    exact = not plan.changes or (split is None and not lossy)  # nothing is lost
    verdict = Verdict(None, ()) if exact else judge_unseen(original, converted, plan, split)
    _warn(plan, verdict)
    converted.meta["sepify"] = Conversion(
        plan,
        f"{captured.front_end}: {captured.reason}",
        (*captured.notes, *reduced.notes, *_state_note(captured, calibrated=batches is not None)),
        verdict.fidelity,
        verdict.warnings,
        verdict.unjudged,
    )
    return converted


def conversion_steps(
    plan: Plan, factors: Mapping[str, Factors], batches: Sequence[Batch] | None
) -> list[Step]:
    """The passes that carry out `plan` with solved `factors`, in order."""
    steps = [Step("separate", partial(separate_convolutions, factors=factors))]
    if plan.ceiling is not None:
        blocks = partial(complete_blocks, names=frozenset(factors), ceiling=plan.ceiling)
        steps.append(Step("complete-blocks", blocks))
        if batches is not None:
            norms = {f"{name}.{norm}" for name in factors for norm in ADDED_NORMS}
            settled = partial(settle_batchnorm, names=norms, batches=batches)
            steps.append(Step("settle-batchnorm", settled))
    if plan.batchnorm and batches is not None:
        steps.append(Step("reestimate-batchnorm", partial(reestimate_batchnorm, batches=batches)))
    return steps


def _shape(
    plan: Plan | None,
    style: Style | None,
    width: float | None,
    resolution: float | tuple[int, int] | None,
) -> tuple[Style, float, float | tuple[int, int] | None]:
    """Style, width and resolution, which a plan brings along. Raises UsageError where both say
    something, and not the same."""
    if plan is None:
        return style or "linear", 1.0 if width is None else width, resolution
    asked = {"style": style, "width": width, "resolution": resolution}
    for name, value in asked.items():
        if value is not None and value != getattr(plan, name):
            raise UsageError(
                f"{name} {value!r} contradicts the plan, which says {getattr(plan, name)!r}: leave "
                "it out, or change the plan"
            )
    return plan.style, plan.width, plan.resolution


def _below_full_rank(plan: Plan, convolutions: Sequence[Convolution]) -> list[str]:
    """The convolutions of which `plan`, carried out from the weights alone, loses a part."""
    kernels = {convolution.name: convolution.kernel for convolution in convolutions}
    return [
        decision.name
        for decision in plan.rewritten
        if not decision.form.is_exact(kernels[decision.name])
    ]


def _held_out(
    batches: Sequence[Batch] | None, holdout: float | None, plan: Plan | None, memory: int
) -> Split | None:
    """The batches to fit to and to judge on; None without any. What a plan was chosen by is not
    held out."""
    if batches is None:
        if holdout:
            raise UsageError("holdout is a part of the calibration images: give some")
        return None
    chosen_by_data = plan is not None and plan.outlook is not None
    if plan is not None and chosen_by_data and plan.heldout is None and holdout != 0:
        if holdout is not None:
            raise UsageError(
                "holdout: the plan does not say which images it was chosen by, so none can be held "
                "out; make it anew, or leave holdout out"
            )
        return Split(tuple(batches), why="the plan does not say which images it was chosen by")
    below = plan.heldout if plan is not None and chosen_by_data else None
    return hold_out(batches, holdout, below, memory)


def _counted(plan: Plan, converted: fx.GraphModule) -> Plan:
    """`plan` with the parameters that each rewritten convolution turned out to have."""
    decisions = []
    for decision in plan:
        if decision.form.rewrites:
            made = converted.get_submodule(decision.name).parameters()
            params = sum(parameter.numel() for parameter in made)
            decision = replace(decision, after=replace(decision.after, params=params))
        decisions.append(decision)
    return replace(plan, decisions=tuple(decisions))


def _state_note(captured: Captured, *, calibrated: bool) -> tuple[str, ...]:
    if not captured.keeps:
        return ()
    names = ", ".join(f"'{name}'" for name in captured.keeps)
    solved = "; solved for first calls alone, and not refined" if calibrated else ""
    return (f"the network keeps {names} from call to call{solved}",)


def _warn(plan: Plan, verdict: Verdict) -> None:
    """That the network is to be trained, or else what speaks against trusting it."""
    asked = [] if plan.style == "linear" else [f"style '{plan.style}'"]
    asked += [] if plan.width == 1 else [f"width {plan.width:g}"]
    if asked:
        warnings.warn(
            f"to be trained because of {' and '.join(asked)}: what convert returns is a start for "
            "sepify.distill(converted, teacher=model, data=...), not a finished network",
            UntrainedWarning,
            stacklevel=4,  # past the decorator
        )
        return
    for sentence in verdict.warnings:
        warnings.warn(sentence, FidelityWarning, stacklevel=4)


def _method(method: Method | None, plan: Plan | None, *, calibrated: bool) -> Method:
    """The solver asked for, or the plan's, or the best that the data allows."""
    chosen = method or (plan.method if plan else None)
    if chosen not in (None, *METHODS):
        raise UsageError(f"method {chosen!r} is not known; choose one of {', '.join(METHODS)}")
    if chosen == "least-squares" and not calibrated:
        asked = "method" if method else "the plan's method"
        raise UsageError(f"{asked} 'least-squares' needs data: give calibration images")
    return chosen or ("least-squares" if calibrated else "svd")
