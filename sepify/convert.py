"""convert(): a trained network in, a depthwise-separable one out. The whole job in one screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, fx, nn

from sepify.calibration.batches import Calibration, calibration_batches
from sepify.calibration.refine import Refinement
from sepify.calibration.solve import solve_by_svd, solve_on_data
from sepify.capture import capture
from sepify.errors import UsageError
from sepify.factorize.factors import Order
from sepify.passes.pipeline import Step, run_passes
from sepify.passes.reestimate_batchnorm import reestimate_batchnorm
from sepify.passes.separate import separate_convolutions
from sepify.planning.check import check_plan
from sepify.planning.plan import METHODS, Method, Plan
from sepify.planning.survey import survey
from sepify.planning.uniform import Filter, plan_uniform
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
    model: nn.Module,
    *,
    rank: int | None = 1,
    order: Order = "dw-pw",
    plan: Plan | None = None,
    keep: Sequence[str] = (),
    filter_fn: Filter | None = None,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    calibration: Calibration | None = None,
    method: Method | None = None,
    refine: Refinement | bool = True,
    progress: Progress | None = None,
) -> fx.GraphModule:
    """Rewrite the standard convolutions of `model` into depthwise + pointwise ones.

    model           nn.Module, fx.GraphModule or a loaded TorchScript module; it is never changed
    rank            separable terms a channel, 1 up; None: full rank, the same function exactly
    order           "dw-pw" (depthwise first) or "pw-dw"
    plan            what to do to each convolution, from `sepify.plan` or a file; overrides the rest
    keep            names or shell patterns of convolutions to leave alone, e.g. "layer1.*"
    filter_fn       filter_fn(module, name) -> False leaves a convolution alone
    example_inputs  one example batch; TorchScript needs it, multiply-adds in the plan come from it
    calibration     unlabelled inputs, a few hundred: a tensor (n, C, H, W) or a loader
    method          "least-squares" on the outputs (default with calibration data), or "svd"
    refine          with least squares: improve each block further by gradient steps on its factors
                    against the original block's output; False leaves it out, it is the longer part
    progress        progress(what, done, total), called as the work goes on

    Returns an ordinary GraphModule in the mode the model was in: `name.depthwise` and
    `name.pointwise` for each rewritten `name`, every other key of the state_dict as it was, and a
    `Conversion` with the plan in `.meta["sepify"]`. With calibration data, "svd" re-estimates
    BatchNorm on it; "least-squares" solves biases too, and needs no such repair.

    Raises a `sepify.errors.SepifyError`: CaptureError, InputError, PlanError, UsageError or
    ConversionError.
    """
    inputs = _as_tuple(example_inputs)
    batches = None
    if calibration is not None:
        batches = calibration_batches(calibration, inputs=len(inputs) if inputs else 1)
        inputs = inputs or tuple(tensor[:2] for tensor in batches[0])
    method = _method(method, plan, calibrated=batches is not None)

    captured = capture(model, inputs)
    original = captured.graph_module
    require_finite_weights(original)
    plan = plan or plan_uniform(
        original, inputs, rank=rank, order=order, keep=keep, filter_fn=filter_fn
    )
    check_plan(plan, survey(original))
    plan = replace(plan, method=method, batchnorm=method == "svd" and batches is not None)

    if method == "least-squares" and batches is not None:
        options = Refinement() if refine is True else refine or None
        factors, plan = solve_on_data(original, plan, batches, progress, options)
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


def make_plan(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...] | None = None,
    *,
    rank: int | None = 1,
    order: Order = "dw-pw",
    keep: Sequence[str] = (),
    filter_fn: Filter | None = None,
    allow_costlier: bool = False,
) -> Plan:
    """What `convert` would do to each convolution of `model`, and why; nothing is converted.

    Public as `sepify.plan`. Arguments as in `convert`; `allow_costlier` also separates
    convolutions whose multiply-adds rise by it (full rank, for instance).
    """
    inputs = _as_tuple(example_inputs)
    return plan_uniform(
        capture(model, inputs).graph_module,
        inputs,
        rank=rank,
        order=order,
        keep=keep,
        filter_fn=filter_fn,
        allow_costlier=allow_costlier,
    )


def _as_tuple(inputs: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
    return (inputs,) if isinstance(inputs, Tensor) else inputs


def _method(method: Method | None, plan: Plan | None, *, calibrated: bool) -> Method:
    """The solver asked for, or the plan's, or the best that the data allows."""
    chosen = method or (plan.method if plan else None)
    if chosen not in (None, *METHODS):
        raise UsageError(f"method {chosen!r} is not known; choose one of {', '.join(METHODS)}")
    if chosen == "least-squares" and not calibrated:
        asked = "method" if method else "the plan's method"
        raise UsageError(f"{asked} 'least-squares' needs data: give calibration images")
    return chosen or ("least-squares" if calibrated else "svd")
