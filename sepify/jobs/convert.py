"""Files in, files out: what `sepify convert` does."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, fx

from sepify.calibration.solver import Solver
from sepify.conversion import Conversion, convert
from sepify.errors import FidelityWarning, UntrainedWarning, UsageError
from sepify.formats.input_note import InputRequest
from sepify.formats.load import load_model
from sepify.formats.loaded import LoadedModel
from sepify.formats.save import save_model
from sepify.formats.table import output_format
from sepify.graph.batches import BATCH_SIZE
from sepify.jobs.data_options import DataRequest, gather_data, origin_of
from sepify.jobs.distillation_options import (
    DistillationOptions,
    describe,
    prepare,
    save_history,
)
from sepify.judging.fidelity import Fidelity
from sepify.judging.heldout import Split, held_out
from sepify.judging.number_words import interval, percent
from sepify.judging.unseen import NO_IMAGES, judge_unseen
from sepify.measuring import compare
from sepify.measuring.options import Judging, Provenance, Timing
from sepify.passes.dump import dumping
from sepify.passes.thin_channels import NOT_THINNED
from sepify.planning.options import UNSET
from sepify.plans.architecture import Architecture
from sepify.plans.budget import read_budget
from sepify.plans.equal_cost import Family
from sepify.plans.file import load_plan, save_plan
from sepify.plans.plan import Method, Plan
from sepify.plans.precision import INTEGERS, Precision
from sepify.plans.resolution import inputs_for
from sepify.plans.styles import Style
from sepify.process.progress import Progress
from sepify.process.starting import is_main_process
from sepify.process.warned import warned
from sepify.storage import require_writable, written_together
from sepify.timing.board import require_board

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
    form: str | None = None  # whichever suits each layer
    style: str | None = None
    width: float | None = None
    resolution: float | None = None
    keep: tuple[str, ...] = ()
    budget: str | None = None
    plan: Path | None = None
    precision: str | None = None  # float32
    method: str | None = None
    memory: float = 4.0  # GiB
    refine: bool = True
    holdout: float | None = None
    given: DataRequest = field(default_factory=DataRequest)
    distill: DistillationOptions | None = None
    report: bool = True
    farm: Farm | None = None  # for a budget in latency, and for the report
    device_target: str | None = None  # by default the budget's
    dump: Path | None = None  # a new folder for the graph between passes

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
    fidelity: Fidelity | None = None  # on held-out images, after distillation if there was any
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For machines, in plain JSON types."""
        before, after = _macs(self.plan)
        return {
            "convolutions": len(self.plan.decisions),
            "separated": len(self.plan.rewritten),
            "method": self.plan.method,
            "macs": [before, after],
            "fidelity": None if self.fidelity is None else asdict(self.fidelity),
            "warnings": list(self.warnings),
            "written": [str(path) for path in self.written],
        }


def convert_file(request: ConversionRequest, progress: Progress) -> ConversionResult:
    """As `_convert_file`, with all that was warned of."""
    with warned() as told, dumping(request.dump if is_main_process() else None):
        result = _convert_file(request, progress)
    return replace(result, warnings=tuple(told))


def _convert_file(request: ConversionRequest, progress: Progress) -> ConversionResult:
    """Convert a model file; write OUTPUT in the form that its suffix names, OUTPUT's .plan.json
    and, if asked, its reports: all of them, or none.

    A model with nothing to separate is written as it was captured, and the summary says so.
    Everything that can be refused is refused before the first file is written.
    """
    output_format(request.output)
    if request.given.data is not None and not request.report:
        raise UsageError("--data is for the report: leave out --data or --no-report")
    if not 0 < request.memory < 2**30:  # NaN is not
        raise UsageError(f"--memory {request.memory:g} is no number of GiB above 0")
    if request.given.calibration is None and request.memory != ConversionRequest.memory:
        raise UsageError("--memory is for calibration images: give --calibration, or leave it out")
    _check_precision(request)
    memory = int(request.memory * 2**30)
    require_writable(request.output.parent)
    require_board(request.farm, request.board_target)
    budget = None if request.budget is None else read_budget(request.budget)
    if budget is not None and budget.target:
        budget = replace(budget, farm=request.farm)
    plan = None if request.plan is None else load_plan(request.plan)
    model = load_model(request.model, request.inputs)
    given = gather_data(request.given, model, others=request.distill is not None)
    training = None
    if request.distill is not None:
        shape = tuple(model.inputs[0].shape)
        training = prepare(request.distill, request.output, given.preparation, shape)
    with warnings.catch_warnings():
        if training is not None:  # what is to be trained will be
            for early in (UntrainedWarning, FidelityWarning):
                warnings.simplefilter("ignore", early)
        small = convert(
            model.module,
            example_inputs=model.inputs,
            calibration=given.calibration,
            rank=UNSET if request.rank is None else request.rank,
            keep=request.keep,
            budget=budget,
            plan=plan,
            architecture=Architecture(
                cast("Family | None", request.form),
                cast("Style | None", request.style),
                request.width,
                request.resolution,
            ),
            precision=cast("Precision | None", request.precision),
            solver=Solver(
                cast("Method | None", request.method), request.refine, memory, request.holdout
            ),
            progress=progress,
        )
    done: Plan = small.meta["sepify"].plan
    if training is not None and done.changes:
        made = small.meta["sepify"]
        small = training.apart_from(done.heldout).teach(small, model.module, progress)
        small.meta["sepify"] = _judged_again(made, model, small, given.calibration)
    if not is_main_process():
        return ConversionResult("", done, ())
    verdict: Conversion = small.meta["sepify"]
    plan_file = request.output.with_suffix(".plan.json")
    written = [request.output, plan_file]
    with written_together() as stage:
        how = save_model(small, stage(request.output), inputs_for(done, model.inputs))
        save_plan(done, stage(plan_file))
        if training is not None and done.changes:
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
                judging=Judging(
                    _unseen(given.calibration, done) if verdict.fidelity else None,
                    given.metric,
                    given.names,
                    verdict.unjudged or NO_IMAGES,
                ),
                timing=Timing(None, (), farm=request.farm, device_target=request.board_target),
                provenance=Provenance(
                    sizes=_sizes(model, Path(request.model), stage(request.output)),
                    origin=origin_of(
                        roles, request.given, done, progress, {plan_file: stage(plan_file)}
                    ),
                ),
                progress=progress,
            )
            for suffix in REPORTS:
                written.append(request.output.with_suffix(f".report{suffix}"))
                report.save(stage(written[-1]))
    if training is not None and done.changes:
        training.forget()
    notes = [note for note in small.meta["sepify"].notes if note.startswith(NOT_THINNED)]
    quantised = [] if verdict.quantisation is None else [verdict.quantisation.summary]
    lines = [_summary(done, how), *quantised, *_likeness(verdict.fidelity), *notes]
    summary = "\n".join(lines)
    return ConversionResult(summary, done, tuple(written), verdict.fidelity)


def _check_precision(request: ConversionRequest) -> None:
    """Raise UsageError where a precision does not go with the rest."""
    if request.precision in (None, "float32"):
        return
    if request.distill is not None:
        raise UsageError(
            "--precision comes after distillation: distil in float32, then sepify quantize"
        )
    if request.precision in INTEGERS and request.output.suffix != ".pt2":
        raise UsageError(
            f"a network in {request.precision} is written as .pt2, not as '{request.output.suffix}'"
        )
    if request.precision in INTEGERS and request.given.calibration is None:
        raise UsageError(f"--precision {request.precision} needs --calibration, to find scales")


def _judged_again(
    made: Conversion, model: LoadedModel, taught: fx.GraphModule, calibration: Tensor | None
) -> Conversion:
    """`made` with the verdict on what the network became, on the same held-out images."""
    split = None
    if calibration is not None:
        unseen = _unseen(calibration, made.plan)
        held = () if unseen is None else unseen.split(BATCH_SIZE)
        fit = calibration.split(BATCH_SIZE)
        split = Split(
            tuple((part,) for part in fit),
            tuple((part,) for part in held),
            made.plan.heldout,
            made.unjudged,
        )
    verdict = judge_unseen(model.module, taught, made.plan, split)
    for sentence in verdict.warnings:
        warnings.warn(sentence, FidelityWarning, stacklevel=2)
    return replace(
        made, fidelity=verdict.fidelity, warnings=verdict.warnings, unjudged=verdict.unjudged
    )


def _unseen(calibration: Tensor | None, plan: Plan) -> Tensor | None:
    """Return the calibration images that nothing was fitted to, None if there are none."""
    if calibration is None or plan.heldout is None:
        return None
    unseen = held_out(calibration, plan.heldout)
    return unseen if len(unseen) else None


def _likeness(fidelity: Fidelity | None) -> list[str]:
    """How near the network is to the original, in a line."""
    if fidelity is None:
        return []
    said = f"mean cosine {fidelity.cosine:.4f}"
    if fidelity.agreement is not None:
        said = f"same top-1 answer {percent(fidelity.agreement.value)}"
        said += f" (95 %: {interval(fidelity.agreement)})"
    return [f"fidelity to the original on {fidelity.inputs} held-out images: {said}"]


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
        f"{len(plan.rewritten)} of {len(plan.decisions)} convolutions separated by {plan.method} "
        f"({plan.shape}); MACs of the convolutions {before:,} -> {after:,} "
        f"({after / max(before, 1):.2f}x); {how}"
    )
