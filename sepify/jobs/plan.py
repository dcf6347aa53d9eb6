"""Files in, files out: what `sepify plan` and `sepify diff` do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text
from torch import Tensor

from sepify.capture.network import make_network
from sepify.errors import UsageError
from sepify.formats.input_note import InputRequest
from sepify.formats.load import load_model
from sepify.formats.loaded import LoadedModel
from sepify.images import in_memory
from sepify.jobs.data_options import DataRequest, gather_data
from sepify.judging.heldout import hold_out
from sepify.planning.budgeted import Known, measure_candidates
from sepify.planning.candidates import load_measurements, save_measurements
from sepify.planning.frontier import Frontier, trace_frontier
from sepify.planning.latency import load_table, save_table
from sepify.planning.make import make_plan
from sepify.planning.reduced import reduce_network
from sepify.planning.uniform import refusals
from sepify.plans.architecture import Architecture
from sepify.plans.budget import read_budget
from sepify.plans.diff import PlanDiff, diff_plans
from sepify.plans.file import load_plan, plan_to_dict, save_plan
from sepify.plans.plan import Plan
from sepify.plans.styles import STYLES, shape_words
from sepify.process.progress import Progress
from sepify.storage import require_writable, write_json

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm


@dataclass(frozen=True)
class PlanningRequest:
    """The options of `sepify plan`."""

    model: str
    inputs: InputRequest | None
    given: DataRequest
    budget: str | None = None
    frontier: bool = False
    output: Path | None = None
    style: str | None = None
    width: float | None = None
    resolution: float | None = None
    keep: tuple[str, ...] = ()
    holdout: float | None = None
    measurements: Path | None = None
    latency_table: Path | None = None
    farm: Farm | None = None


@dataclass(frozen=True)
class PlanningResult:
    """What to tell the user, the plan or the frontier for machines, and the files written."""

    summary: RenderableType
    facts: dict[str, Any]
    written: tuple[Path, ...]


def plan_file(request: PlanningRequest, progress: Progress) -> PlanningResult:
    """Make a plan for a model file within a budget and write it, or trace the frontier.

    Measurements and latencies are saved as soon as they are there, and gone on from where their
    files exist. Everything that can be refused is refused before the work begins.
    """
    if (request.budget is None) == (not request.frontier):
        raise UsageError("give either --budget (for a plan) or --frontier (for the whole curve)")
    budget = None if request.budget is None else read_budget(request.budget)
    if budget is None and request.farm is not None:
        raise UsageError("a board is for a budget in latency: --frontier is of multiply-adds")
    if budget is None and request.given.data is not None:
        raise UsageError("--data is for a budget in accuracy_drop: --frontier needs none")
    if request.latency_table is not None and (budget is None or budget.target is None):
        raise UsageError("--latency-table is for a budget in latency: leave it out")
    if budget is not None and request.output is None:
        raise UsageError("a plan needs a file to be written to: -o plan.json")
    outputs = (request.output, request.measurements, request.latency_table)
    written = [path for path in outputs if path is not None]
    for path in written:
        require_writable(path.parent)
    known = _known(request)
    model = load_model(request.model, request.inputs)
    given = gather_data(request.given, model)
    calibration = given.calibration
    assert calibration is not None
    labelled = None if given.labelled is None else in_memory(given.labelled)
    summary: RenderableType
    if budget is None:
        frontier = _frontier(request, model, calibration, known, progress)
        facts = frontier.to_dict()
        if request.output is not None:
            write_json(request.output, facts)
        summary = render_frontier(frontier)
    else:
        plan = make_plan(
            model.module,
            model.inputs,
            calibration=calibration,
            keep=request.keep,
            budget=replace(budget, labelled=labelled, farm=request.farm),
            architecture=_architecture(request),
            holdout=request.holdout,
            known=known,
            progress=progress,
        )
        assert request.output is not None
        save_plan(plan, request.output)
        facts = plan_to_dict(plan)
        summary = Text(describe_plan(plan))
    there = [path for path in written if path.is_file() or path == Path("-")]
    return PlanningResult(summary, facts, tuple(there))


def _frontier(
    request: PlanningRequest,
    model: LoadedModel,
    calibration: Tensor,
    known: Known,
    progress: Progress,
) -> Frontier:
    network = make_network(model.module, model.inputs, calibration)
    split = hold_out(network.batches or (), request.holdout)
    known, network = known.apart_from(split.below), network.fitted_to(split.fit)
    settled = _architecture(request).beside(None)
    reduced = reduce_network(network, settled.width, settled.resolution)
    fitting = reduced.network
    refused = refusals(fitting.convolutions, request.keep, None)
    measured = measure_candidates(fitting, known, progress)
    style = settled.style
    frontier = trace_frontier(measured.kept_only(refused).of_style(style), "macs")
    frontier = replace(frontier, style=style, width=reduced.width, resolution=reduced.resolution)
    whole = sum(cost.macs or 0 for _, cost in reduced.before.values())
    return frontier.of_original(whole) if whole else frontier


def _architecture(request: PlanningRequest) -> Architecture:
    if request.style not in (None, *STYLES):
        raise UsageError(f"style {request.style!r} is not known; choose one of {', '.join(STYLES)}")
    style = request.style
    return Architecture(style=style, width=request.width, resolution=request.resolution)


def diff_files(first: Path, second: Path) -> PlanDiff:
    """What the second plan file does differently from the first."""
    return diff_plans(load_plan(first), load_plan(second))


def render_frontier(frontier: Frontier) -> RenderableType:
    """A sparkline and a few of the points, for a terminal of 80 columns."""
    unit = "nats" if frontier.loss == "kl" else "of the outputs' variance"
    points = frontier.points
    lines = describe_shape(frontier)
    lines += [
        f"loss of the outputs ({unit}, log scale) from {points[0].share:.0%} to "
        f"{points[-1].share:.0%} of the convolutions' {frontier.original:,.0f} MACs",
        frontier.sparkline(),
        "share      MACs        loss",
    ]
    lines += [f"{p.share:5.1%}  {p.cost:>13,.0f}  {p.damage:.2g}" for p in points]
    return Group(Text("\n".join(lines)))


def describe_shape(made: Frontier | Plan) -> list[str]:
    """Style, width and resolution in a line, none where they are the original's."""
    words = shape_words(made.style, made.width, made.resolution)
    plain = words == shape_words("linear", 1.0, None)
    return [] if plain else [f"{words}; losses are before training"]


def describe_plan(plan: Plan) -> str:
    """A few lines on what a plan for a budget does and promises."""
    outlook = plan.outlook
    assert outlook is not None
    before = sum(decision.before.macs or 0 for decision in plan)
    after = sum(decision.after.macs or 0 for decision in plan)
    unit = "nats" if outlook.loss == "kl" else "of the outputs' variance"
    above = outlook.gap / (1 - outlook.gap)  # of what is predicted: another may measure better
    lines = describe_shape(plan)
    lines += [
        f"budget {outlook.budget}: {len(plan.rewritten)} of {len(plan.decisions)} convolutions "
        f"separated, MACs {before:,} -> {after:,} ({after / max(before, 1):.3f}x)",
        f"loss of the outputs: {outlook.predicted:.2g} {unit} predicted, {outlook.measured:.2g} "
        f"measured; {outlook.rounds} round(s), {above:.0%} above the solver's bound",
    ]
    if outlook.verified is not None:
        lines.append(outlook.verified)
    return "\n".join(lines)


def _known(request: PlanningRequest) -> Known:
    measurements, table = request.measurements, request.latency_table
    return Known(
        load_measurements(measurements) if measurements and measurements.is_file() else None,
        load_table(table) if table and table.is_file() else None,
        None if measurements is None else partial(save_measurements, path=measurements),
        None if table is None else partial(save_table, path=table),
    )
