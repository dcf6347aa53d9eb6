"""convert(): a trained network in, a depthwise-separable one out. The whole job in one screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, fx

from sepify.calibration.batches import Calibration
from sepify.calibration.gathering import MEMORY
from sepify.calibration.refine import Refinement
from sepify.calibration.solve import solve_by_svd, solve_on_data
from sepify.capture import Model, capture
from sepify.errors import UsageError
from sepify.factorize.factors import Order
from sepify.passes.pipeline import Step, run_passes
from sepify.passes.reestimate_batchnorm import reestimate_batchnorm
from sepify.passes.separate import separate_convolutions
from sepify.planning.budget import Budget
from sepify.planning.check import check_plan
from sepify.planning.make import Wish, inputs_and_batches, plan_graph
from sepify.planning.plan import METHODS, Method, Plan
from sepify.planning.survey import survey
from sepify.planning.uniform import Filter
from sepify.verify import require_finite_weights, verify_conversion

# progress(what is being done, steps done, steps in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Conversion:
    """What `convert` did; found as `converted.meta["sepify"]`."""

    plan: Plan
    front_end: str  # how the model was captured, and why that way
    notes: tuple[str, ...]  # what the user should know: assumptions, modes, hooks dropped


def convert(
    model: Model,
    *,
    rank: int | None = 1,
    order: Order = "dw-pw",
    budget: Budget | None = None,
    plan: Plan | None = None,
    keep: Sequence[str] = (),
    filter_fn: Filter | None = None,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    calibration: Calibration | None = None,
    labelled: tuple[Tensor, Tensor] | None = None,
    method: Method | None = None,
    refine: Refinement | bool = True,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> fx.GraphModule:
    """Rewrite the standard convolutions of `model` into depthwise + pointwise ones.

    model           nn.Module, fx.GraphModule, a loaded TorchScript module or ExportedProgram; it is
                    never changed
    rank            separable terms a channel, 1 up; None: full rank, the same function exactly
    order           "dw-pw" (depthwise first) or "pw-dw"
    budget          instead: the best mixture of orders and ranks within it; needs calibration data
    plan            what to do to each convolution, from `sepify.plan` or a file; overrides the rest
    keep            names or shell patterns of convolutions to leave alone, e.g. "layer1.*"
    filter_fn       filter_fn(module, name) -> False leaves a convolution alone
    example_inputs  one example batch; TorchScript needs it, multiply-adds in the plan come from it
    calibration     unlabelled inputs, a few hundred: a tensor (n, C, H, W) or a loader
    labelled        images and labels for Budget(accuracy_drop=...); calibration data without them
    method          "least-squares" on the outputs (default with calibration data), or "svd"
    refine          with least squares: improve each block further by gradient steps on its factors
                    against the original block's output; False leaves it out, it is the longer part
    memory          bytes for least squares: beyond it, values kept between layers go to a temporary
                    file, and layers whose covariance would be too large are solved without one
    progress        progress(what, done, total), called as the work goes on

    Returns an ordinary GraphModule in the mode the model was in: `name.depthwise` and
    `name.pointwise` for each rewritten `name`, every other key of the state_dict as it was, and a
    `Conversion` with the plan in `.meta["sepify"]`. With calibration data, "svd" re-estimates
    BatchNorm on it; "least-squares" solves biases too, and needs no such repair.

    Warns (CalibrationWarning) where the data are few for a layer. Raises a
    `sepify.errors.SepifyError`: CaptureError, InputError, PlanError, UsageError or
    ConversionError.
    """
    if plan is not None and budget is not None:
        raise UsageError("a plan and a budget contradict each other: give one of them")
    inputs, batches = inputs_and_batches(example_inputs, calibration)
    method = _method(method, plan, calibrated=batches is not None)

    captured = capture(model, inputs)
    original = captured.graph_module
    require_finite_weights(original)
    wish = Wish(rank, order, budget, tuple(keep), filter_fn, labelled)
    plan = plan or plan_graph(original, inputs, batches, wish, progress)
    check_plan(plan, survey(original))
    plan = replace(plan, method=method, batchnorm=method == "svd" and batches is not None)

    if method == "least-squares" and batches is not None:
        options = Refinement() if refine is True else refine or None
        factors, plan = solve_on_data(original, plan, batches, progress, options, memory)
    else:
        factors = solve_by_svd(original, plan)
    steps = [Step("separate", partial(separate_convolutions, factors=factors))]
    if plan.batchnorm and batches is not None:
        steps.append(Step("reestimate-batchnorm", partial(reestimate_batchnorm, batches=batches)))
    converted = run_passes(original, steps)

    if inputs is not None:
        verify_conversion(original, converted, inputs)
    front_end = f"{captured.front_end}: {captured.reason}"
    converted.meta["sepify"] = Conversion(plan, front_end, captured.notes)
    return converted


def _method(method: Method | None, plan: Plan | None, *, calibrated: bool) -> Method:
    """The solver asked for, or the plan's, or the best that the data allows."""
    chosen = method or (plan.method if plan else None)
    if chosen not in (None, *METHODS):
        raise UsageError(f"method {chosen!r} is not known; choose one of {', '.join(METHODS)}")
    if chosen == "least-squares" and not calibrated:
        asked = "method" if method else "the plan's method"
        raise UsageError(f"{asked} 'least-squares' needs data: give calibration images")
    return chosen or ("least-squares" if calibrated else "svd")
