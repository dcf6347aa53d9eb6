"""convert(): a trained network in, a depthwise-separable one out. The whole job in one screen."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

from torch import Tensor, fx

from sepify.calibration.solve import solve
from sepify.calibration.solver import Solver
from sepify.capture import Model
from sepify.capture.network import Network, make_network, require_images
from sepify.errors import FidelityWarning, UntrainedWarning, UsageError
from sepify.graph.batches import Calibration
from sepify.graph.sound import require_finite_result, verify_conversion
from sepify.judging.fidelity import Fidelity
from sepify.judging.heldout import split_images
from sepify.judging.unseen import Verdict, judge_unseen
from sepify.passes.pipelines import conversion
from sepify.passes.runner import run_passes
from sepify.planning.make import Wish, plan_reduced
from sepify.planning.options import UNSET, Rank, require_agreeing
from sepify.planning.reduced import reduce_network
from sepify.planning.uniform import Selection
from sepify.plans.architecture import Architecture
from sepify.plans.budget import Budget
from sepify.plans.check import below_full_rank, check_plan, require_nothing_lost, without_kernels
from sepify.plans.plan import Plan
from sepify.plans.precision import Precision
from sepify.process.progress import Progress, guarded
from sepify.process.renamed import renamed
from sepify.process.state import keeps_process_state
from sepify.quantising.precision import at_precision, with_precision
from sepify.quantising.quantisation import Quantisation


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
    quantisation: Quantisation | None = None  # of a network in int8


@renamed(
    order="architecture=Architecture(form=...)",
    style="architecture=Architecture(style=...)",
    width="architecture=Architecture(width=...)",
    resolution="architecture=Architecture(resolution=...)",
    method="solver=Solver(method=...)",
    refine="solver=Solver(refine=...)",
    memory="solver=Solver(memory=...)",
    holdout="solver=Solver(holdout=...)",
    labelled="budget=Budget(accuracy_drop=..., labelled=...)",
    farm="budget=Budget(latency=..., target=..., farm=...)",
    filter_fn="keep=function, which answers True for what is left alone",
)
@keeps_process_state
def convert(
    model: Model,
    *,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    calibration: Calibration | None = None,
    rank: Rank = UNSET,
    keep: Selection = (),
    budget: Budget | None = None,
    plan: Plan | None = None,
    architecture: Architecture | None = None,
    precision: Precision | None = None,
    solver: Solver | None = None,
    progress: Progress | None = None,
) -> fx.GraphModule:
    """Rewrite the convolutions of `model` into cheaper ones: depthwise + pointwise and the like.

    Args:
        model: an nn.Module, fx.GraphModule, loaded TorchScript module or ExportedProgram; it is
            never changed.
        example_inputs: one example batch `(B, C, H, W)`; TorchScript needs it, and the plan's
            multiply-adds come from it.
        calibration: unlabelled inputs, a few hundred: a tensor `(n, C, H, W)` or a loader; can be
            left out only with `Solver(method="svd")`, or where every layer stays at full rank.
        rank: each layer at the multiply-adds of this many separable terms a channel (depthwise +
            pointwise), in the form that suits it best; 1 if not given; None for full rank, the same
            function exactly.
        keep: convolutions to leave alone: names or shell patterns such as "layer1.*", or a function
            of a module and its name that answers True for them.
        budget: instead of a rank: the best mixture of forms within it; needs
            calibration data.
        plan: what to do to each convolution, from `sepify.plan` or a file; whatever else is given
            and says otherwise is refused.
        architecture: form, style, width and resolution.
        precision: "float32" (the default), "float16" or "bfloat16" (weights and activations cast),
            "int8", or "W4A8" (weights of 4 bits, activations of 8), which need calibration data.
        solver: how weights are found, and which images judge the result.
        progress: called as progress(what, done, total) as the work goes on.

    Returns:
        An ordinary GraphModule in the mode the model was in: `name.depthwise` and `name.pointwise`
        for each rewritten `name`, or the parts of the form that it took (in style "mobilenet"
        `name.depthwise_bn`, `name.depthwise_act` and, where the network has none of its own,
        `name.pointwise_bn` and `name.pointwise_act` as well), every other key of the state_dict as
        it was, and a `Conversion` with the plan and the
        fidelity in `.meta["sepify"]`. With calibration data, "svd" re-estimates BatchNorm on it;
        "least-squares" solves biases too, and needs no such repair.

    Warns:
        CalibrationWarning: the data are few for a layer.
        UntrainedWarning: the result needs training.
        FidelityWarning: the result is far from the original, or nobody knows how far.

    Raises:
        SepifyError: CaptureError, InputError, PlanError, UsageError, ConversionError, or
            DependencyError (a width needs Torch-Pruning).
    """
    architecture, solver = architecture or Architecture(), solver or Solver()
    if plan is not None and budget is not None:
        raise UsageError("a plan and a budget contradict each other: give one of them")
    settled, asked = architecture.beside(plan), solver.method or (plan and plan.method)
    method = solver.method_for(plan, calibrated=calibration is not None)
    network = make_network(model, example_inputs, calibration)
    network.require_steady(settled.resized)
    require_images(network)
    split = split_images(network.batches, solver.holdout, plan, solver.memory)
    network = network.fitted_to(None if split is None else split.fit)
    reduced = reduce_network(network, settled.width, settled.resolution)
    note, choices = guarded(progress), None

    if plan is None:
        wish = Wish(rank, keep, budget, architecture)
        plan = plan_reduced(reduced, wish, note, split=split)
        choices = wish.choices(plan, reduced.network)
    else:
        require_agreeing(plan, network.convolutions, rank, architecture.form, keep)
    check_plan(plan, network.convolutions)
    plan = with_precision(plan, precision)
    if reduced.network is not network:
        check_plan(without_kernels(plan), reduced.network.convolutions)
    lossy = below_full_rank(plan, reduced.network.convolutions)
    if not asked and network.batches is None:
        require_nothing_lost(lossy)
    plan = replace(
        plan,
        method=method,
        batchnorm=method == "svd" and network.batches is not None,
        resolution=reduced.resolution,
        heldout=None if split is None else split.below,
    )

    factors, plan = solve(reduced.network, plan, solver, note, choices)
    passes = conversion(
        solver.pipeline,
        factors,
        reduced.network.batches,
        ceiling=plan.ceiling,
        batchnorm=plan.batchnorm,
    )
    converted = run_passes(reduced.network.graph_module, passes).graph_module
    plan = _counted(plan, converted)
    floating = replace(reduced.network.captured, graph_module=converted)
    ready = Network(floating, reduced.network.inputs, reduced.network.batches)
    made = at_precision(ready, plan, precision, split, note)
    converted, plan = made.graph_module, made.plan
    require_finite_result(converted)
    if network.inputs is not None:
        verify_conversion(network.graph_module, converted, reduced.network.inputs or ())
    same = converted is ready.graph_module
    exact = same and (not plan.changes or (split is None and not lossy))  # nothing is lost
    original = network.graph_module
    verdict = Verdict(None, ()) if exact else judge_unseen(original, converted, plan, split)
    _warn(plan, verdict)
    captured = network.captured
    converted.meta["sepify"] = Conversion(
        plan,
        f"{captured.front_end}: {captured.reason}",
        (*captured.notes, *reduced.notes, *_state_note(network)),
        verdict.fidelity,
        verdict.warnings,
        verdict.unjudged,
        made.quantisation,
    )
    return converted


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


def _state_note(network: Network) -> tuple[str, ...]:
    if not network.captured.keeps:
        return ()
    names = ", ".join(f"'{name}'" for name in network.captured.keeps)
    calibrated = network.batches is not None
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
            stacklevel=5,  # past the decorators
        )
        return
    for sentence in verdict.warnings:
        warnings.warn(sentence, FidelityWarning, stacklevel=5)
