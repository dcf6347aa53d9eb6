"""Files in, files out: what `sepify convert` does."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sepify.convert import convert
from sepify.errors import UntrainedWarning, UsageError
from sepify.evidence import DataRequest, gather_data, origin_of
from sepify.factorize.factors import Order
from sepify.forms import require_form, save_model
from sepify.input_note import InputRequest
from sepify.lessons import Lesson, describe, prepare, save_history
from sepify.measuring import compare
from sepify.measuring.board import require_board
from sepify.models import LoadedModel, load_model
from sepify.multipliers import inputs_for
from sepify.passes.thin_channels import NOT_THINNED
from sepify.planning.beside import UNSET
from sepify.planning.budget import read_budget
from sepify.planning.plan import Method, Plan, Style
from sepify.planning.plan_file import load_plan, save_plan
from sepify.processes import is_main_process
from sepify.progress import Progress
from sepify.storage import require_writable, written_together

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm

REPORTS = (".json", ".html")  # written beside a converted model


@dataclass(frozen=True)
class ConversionRequest:
    """The options of `sepify convert`."""

    model: str
    output: Path
    inputs: InputRequest | None = None
    rank: int | None = None  # 1
    order: str | None = None  # dw-pw
    style: str | None = None
    width: float | None = None
    resolution: float | None = None
    keep: tuple[str, ...] = ()
    budget: str | None = None
    plan: Path | None = None
    method: str | None = None
    memory: float = 4.0  # GiB
    refine: bool = True
    given: DataRequest = field(default_factory=DataRequest)
    distill: Lesson | None = None
    report: bool = True
    farm: Farm | None = None  # for a budget in latency, and for the report
    device_target: str | None = None  # by default the budget's

    @property
    def board_target(self) -> str | None:
        """What the board is. Raises UsageError where that is unknown, or said twice."""
        planned = None if self.budget is None else read_budget(self.budget).target
        if self.farm is None:
            return self.device_target
        if planned and self.device_target and planned != self.device_target:
            raise UsageError(
                f"--device-target {self.device_target} contradicts the budget, which is for "
                f"'{planned}': the board is one of them"
            )
        if not planned and not self.report:
            raise UsageError("a board is for a budget in latency or for the report: leave it out")
        return self.device_target or planned


@dataclass(frozen=True)
class ConversionResult:
    """What to tell the user, the plan that was carried out, and the files written; no files in a
    process that is not the first."""

    summary: str
    plan: Plan
    written: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """For machines, in plain JSON types."""
        before, after = _macs(self.plan)
        return {
            "convolutions": len(self.plan.decisions),
            "separated": len(self.plan.separated),
            "method": self.plan.method,
            "macs": [before, after],
            "written": [str(path) for path in self.written],
        }


def convert_file(request: ConversionRequest, progress: Progress) -> ConversionResult:
    """Convert a model file; write OUTPUT in the form that its suffix names, OUTPUT's .plan.json
    and, if asked, its reports: all of them, or none.

    A model with nothing to separate is written as it was captured, and the summary says so.
    Everything that can be refused is refused before the first file is written.
    """
    require_form(request.output)
    if request.given.data is not None and not request.report:
        raise UsageError("--data is for the report: leave out --data or --no-report")
    if not 0 < request.memory < 2**30:  # NaN is not
        raise UsageError(f"--memory {request.memory:g} is no number of GiB above 0")
    memory = int(request.memory * 2**30)
    require_writable(request.output.parent)
    require_board(request.farm, request.board_target)
    budget = None if request.budget is None else read_budget(request.budget)
    plan = None if request.plan is None else load_plan(request.plan)
    model = load_model(request.model, request.inputs)
    given = gather_data(request.given, model)
    lesson = None
    if request.distill is not None:
        shape = tuple(model.inputs[0].shape)
        lesson = prepare(request.distill, request.output, given.preparation, shape)
    with warnings.catch_warnings():
        if lesson is not None:  # what is to be trained will be
            warnings.simplefilter("ignore", UntrainedWarning)
        small = convert(
            model.module,
            rank=UNSET if request.rank is None else request.rank,
            order=cast("Order | None", request.order),
            budget=budget,
            plan=plan,
            style=cast("Style | None", request.style),
            width=request.width,
            resolution=request.resolution,
            keep=request.keep,
            example_inputs=model.inputs,
            calibration=given.calibration,
            method=cast("Method | None", request.method),
            memory=memory,
            refine=request.refine,
            farm=request.farm if budget is not None and budget.target else None,
            progress=progress,
        )
    done: Plan = small.meta["sepify"].plan
    if lesson is not None and done.changes:
        small = lesson.teach(small, model.module, progress)
    if not is_main_process():
        return ConversionResult("", done, ())
    plan_file = request.output.with_suffix(".plan.json")
    written = [request.output, plan_file]
    with written_together() as stage:
        how = save_model(small, stage(request.output), inputs_for(done, model.inputs))
        save_plan(done, stage(plan_file))
        if lesson is not None and done.changes:
            how = f"{describe(small)}; {how}"
            written.append(request.output.with_suffix(".distillation.json"))
            save_history(small, stage(written[-1]))
        if request.report and done.changes:
            roles = {"the original": request.model, "the plan": str(plan_file)}
            report = compare(
                model.module,
                small,
                model.inputs,
                data=given.labelled,
                names=given.names,
                metric=given.metric,
                unlabelled=given.calibration,
                target=None,
                threads=(),
                sizes=_sizes(model, Path(request.model), stage(request.output)),
                progress=progress,
                origin=origin_of(
                    roles, request.given, done, progress, {plan_file: stage(plan_file)}
                ),
                farm=request.farm,
                device_target=request.board_target,
            )
            for suffix in REPORTS:
                written.append(request.output.with_suffix(f".report{suffix}"))
                report.save(stage(written[-1]))
    if lesson is not None and done.changes:
        lesson.forget()
    notes = [note for note in small.meta["sepify"].notes if note.startswith(NOT_THINNED)]
    summary = "\n".join([_summary(done, how), *notes])
    return ConversionResult(summary, done, tuple(written))


def _sizes(model: LoadedModel, source: Path, output: Path) -> tuple[int, int] | None:
    """Bytes on disk before and after, where both files are of one kind."""
    if model.size is None or source.suffix != output.suffix:
        return None
    return (model.size, output.stat().st_size)


def _macs(plan: Plan) -> tuple[int, int]:
    return (
        sum(decision.before.macs or 0 for decision in plan),
        sum(decision.after.macs or 0 for decision in plan),
    )


def _summary(plan: Plan, how: str) -> str:
    if not plan.decisions:
        return "nothing to do: the model has no convolutions; it was written as it is"
    if not plan.changes:
        first = plan.kept[0]
        return (
            f"nothing to do: none of {len(plan.decisions)} convolutions can be separated "
            f"({first.name}: {first.reason}); it was written as it is"
        )
    before, after = _macs(plan)
    return (
        f"{len(plan.separated)} of {len(plan.decisions)} convolutions separated by {plan.method} "
        f"({plan.shape}); MACs of the convolutions {before:,} -> {after:,} "
        f"({after / max(before, 1):.2f}x); {how}"
    )
