"""The simplest plan: one form and one rank for every convolution that can take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, fx, nn

from sepify.errors import PlanError, UsageError
from sepify.factorize.solvers import weight_error
from sepify.faults import users_code
from sepify.graph.convolutions import Convolution, survey
from sepify.graph.maps import Maps, measure_maps
from sepify.plans.costs import standard_cost, unit_maps
from sepify.plans.equal_cost import FAMILIES, Family, form_at_rank
from sepify.plans.form import Form
from sepify.plans.forms import Keep, Order, full_rank
from sepify.plans.plan import Decision, Plan
from sepify.plans.styles import STYLES, Style

Filter = Callable[[nn.Module, str], bool]
Selection = Sequence[str] | Filter
"""Convolutions to leave alone: names or shell patterns, or a function of a module and its name that
answers True for them."""


def patterns_and_filter(keep: Selection) -> tuple[Sequence[str], Filter | None]:
    """The names and patterns in `keep`, or the function, which is of what is left alone."""
    if not callable(keep):
        return keep, None
    kept = keep
    return (), lambda module, name: not kept(module, name)


def plan_uniform(
    graph_module: fx.GraphModule,
    example_inputs: tuple[Tensor, ...] | None = None,
    *,
    rank: int | None = 1,
    form: Family = "dw-pw",
    style: Style = "linear",
    keep: Sequence[str] = (),
    filter_fn: Filter | None = None,
    allow_costlier: bool = False,
) -> Plan:
    """Rewrite every eligible convolution as `form` at the multiply-adds of dw-pw at `rank` (None:
    exactly).

    A layer whose full rank is lower takes its full rank. Met, each with its reason: what cannot
    be separated, what matches a pattern in `keep` (shell wildcards on module paths), what
    `filter_fn(module, name)` refuses, and, unless `allow_costlier`, what would cost more
    multiply-adds than before. Multiply-adds are known only with `example_inputs`.

    Raises UsageError for a rank below 1 or above every layer's full rank, an unknown form or style
    or two that contradict each other, and PlanError for a `keep` pattern that matches nothing.
    """
    maps = {} if example_inputs is None else measure_maps(graph_module, example_inputs)
    return uniform(
        survey(graph_module),
        maps,
        rank=rank,
        form=form,
        style=style,
        keep=keep,
        filter_fn=filter_fn,
        allow_costlier=allow_costlier,
    )


def uniform(
    convolutions: tuple[Convolution, ...],
    maps: Mapping[str, Maps],
    *,
    rank: int | None,
    form: Family,
    style: Style,
    keep: Sequence[str],
    filter_fn: Filter | None,
    allow_costlier: bool,
) -> Plan:
    """The same for a graph that was surveyed: its convolutions, and their maps as far as known."""
    _check_request(convolutions, rank, form, style)
    refused = refusals(convolutions, keep, filter_fn)

    def decide(convolution: Convolution) -> Decision:
        at = maps.get(convolution.name)
        reason = convolution.obstacle or refused.get(convolution.name)
        if reason is not None:
            return _kept(convolution, at, reason)
        taken = form_at_rank(form, rank, convolution, at)
        if taken is None:
            unsuited = "1x1: already pointwise" if convolution.pointwise else f"no {form} for it"
            return _kept(convolution, at, unsuited)
        rise = _cost_ratio(convolution, at, taken)
        if rise >= 1 and not allow_costlier:
            reason = f"cost would rise: {rise:.2f}x the multiply-adds as {taken.words}"
            return _kept(convolution, at, reason)
        return _rewritten(convolution, at, taken, style)

    return Plan(tuple(decide(convolution) for convolution in convolutions), style=style)


def refusals(
    convolutions: Sequence[Convolution], keep: Sequence[str], filter_fn: Filter | None
) -> dict[str, str]:
    """The convolutions that could be separated and that the user wants kept, each with the reason.
    Raises PlanError for a pattern in `keep` that matches nothing."""
    for pattern in keep:
        if not any(fnmatchcase(c.name, pattern) for c in convolutions):
            names = ", ".join(c.name for c in convolutions[:5]) or "none"
            raise PlanError(f"keep pattern '{pattern}' matches no convolution (there are: {names})")
    reasons = {c.name: _refusal(c, keep, filter_fn) for c in convolutions if c.obstacle is None}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _check_request(
    convolutions: Sequence[Convolution], rank: int | None, form: str, style: str
) -> None:
    if form not in FAMILIES:
        raise UsageError(f"form {form!r} is not known; choose one of {', '.join(FAMILIES)}")
    if style not in STYLES:
        raise UsageError(f"style {style!r} is not known; choose one of {', '.join(STYLES)}")
    if style != "linear" and form != "dw-pw":
        raise UsageError(f"style '{style}' is depthwise first: leave out form {form!r}")
    eligible = [c for c in convolutions if c.obstacle is None and not c.pointwise]
    if rank is not None:
        order: Order = "pw-dw" if form == "pw-dw" else "dw-pw"
        highest = max((full_rank(c.kernel, order) for c in eligible), default=None)
        if rank < 1:
            raise UsageError(f"rank {rank} is too low: the least is 1")
        if highest is not None and rank > highest:
            raise UsageError(f"rank {rank} is too high: {highest} already reproduces every layer")


def _refusal(convolution: Convolution, keep: Sequence[str], filter_fn: Filter | None) -> str | None:
    for pattern in keep:
        if fnmatchcase(convolution.name, pattern):
            return f"asked to keep '{pattern}'"
    assert convolution.module is not None
    if filter_fn is not None:
        with users_code(f"keep, asked about '{convolution.name}',", UsageError):
            wanted = bool(filter_fn(convolution.module, convolution.name))
        if not wanted:
            return "asked to keep it"
    return None


def _cost_ratio(convolution: Convolution, at: Maps | None, form: Form) -> float:
    at = at or unit_maps(convolution)
    before = standard_cost(convolution, at).macs
    after = form.cost(convolution, at, bias=False).macs
    assert before is not None
    assert after is not None
    return after / before if before else 1.0


def _kept(convolution: Convolution, at: Maps | None, reason: str) -> Decision:
    cost = standard_cost(convolution, at)
    return Decision(convolution.name, Keep(), reason, convolution.kernel, cost, cost)


def _rewritten(convolution: Convolution, at: Maps | None, form: Form, style: Style) -> Decision:
    assert convolution.module is not None
    bias = convolution.module.bias is not None
    exact = ", exact" if form.is_exact(convolution.kernel) else ""
    return Decision(
        convolution.name,
        form,
        f"asked for; {form.extent(convolution.kernel)}{exact}",
        convolution.kernel,
        standard_cost(convolution, at),
        form.cost(convolution, at, bias=bias, style=style),
        weight_error(form, convolution.module.weight),
    )
