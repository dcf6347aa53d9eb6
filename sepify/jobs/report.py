"""Files in, files out: what `sepify report` does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sepify.calibration.solver import Solver
from sepify.conversion import convert
from sepify.errors import FidelityWarning, UsageError
from sepify.formats.input_note import InputRequest, note_inputs
from sepify.formats.load import load_model
from sepify.formats.loaded import LoadedModel
from sepify.jobs.data_options import DataRequest, LabelledData, gather_data, origin_of
from sepify.judging.heldout import held_out, not_held_out
from sepify.judging.unseen import NO_IMAGES
from sepify.measuring import Report, compare
from sepify.measuring.compare import FITTED_NOTE
from sepify.measuring.judging import PERHAPS_FITTED
from sepify.measuring.options import Alternatives, Judging, Provenance, Timing
from sepify.planning.candidates import load_measurements
from sepify.plans.file import load_plan
from sepify.plans.plan import Plan
from sepify.plans.resolution import inputs_for
from sepify.process.progress import Progress
from sepify.report.comparison import Comparison
from sepify.report.model import ReportData
from sepify.report.render import require_report_name, save
from sepify.report.report import compare_reports
from sepify.storage import require_writable, written_together
from sepify.timing.board import require_board

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm


@dataclass(frozen=True)
class ReportRequest:
    """The options of `sepify report BEFORE AFTER`."""

    before: str
    after: str
    inputs: InputRequest | None = None
    plan: Path | None = None
    measurements: Path | None = None
    uniform: tuple[int, ...] = ()
    target: str | None = "native"
    given: DataRequest = field(default_factory=DataRequest)
    outputs: tuple[Path, ...] = ()
    farm: Farm | None = None
    device_target: str | None = None


def report_files(request: ReportRequest, progress: Progress | None = None) -> Report:
    """The report on two models, saved as all of the outputs (checked beforehand); the plan beside
    `after` is used where none is named. Raises UsageError for uniform ranks without calibration
    images."""
    for path in request.outputs:
        require_report_name(path)
        require_writable(path.parent)
    if request.uniform and request.given.calibration is None:
        raise UsageError("--uniform needs --calibration: those ranks are solved for on its images")
    require_board(request.farm, request.device_target)
    original = load_model(request.before, request.inputs)
    beside = Path(request.after).with_suffix(".plan.json")
    plan_file = request.plan or (beside if beside.is_file() else None)
    plan = None if plan_file is None else load_plan(plan_file)
    noted = note_inputs(inputs_for(plan, original.inputs))
    converted = load_model(request.after, InputRequest(noted.shapes, noted.dtypes))
    measured = None if request.measurements is None else load_measurements(request.measurements)
    given = gather_data(request.given, original)
    judged = _unfitted(given.calibration, plan)
    roles = {"the original": request.before, "the converted network": request.after}
    named = {"the plan": plan_file, "measurements": request.measurements}
    roles.update({role: str(path) for role, path in named.items() if path is not None})
    report = compare(
        original.module,
        converted.module,
        original.inputs,
        data=given.labelled,
        judging=Judging(
            judged if given.labelled is None else None, given.metric, given.names, NO_IMAGES
        ),
        timing=Timing(request.target, farm=request.farm, device_target=request.device_target),
        alternatives=Alternatives(
            _uniform(original, given, plan, request.uniform, progress), measured
        ),
        provenance=Provenance(
            plan,
            _sizes(request, original, converted),
            origin_of(roles, request.given, plan, progress),
        ),
        progress=progress,
    )
    if plan is None and judged is not None and given.labelled is None:
        notes = (FITTED_NOTE, *report.notes)  # nothing says what was held out
        report = replace(report, notes=notes, judged_on=PERHAPS_FITTED)
    save_all(report, request.outputs)
    return report


def compare_files(saved: Sequence[Path], outputs: Sequence[Path]) -> Comparison:
    """Reports that were saved as JSON, side by side, saved as all of the outputs."""
    comparison = compare_reports(saved)
    save_all(comparison, outputs)
    return comparison


def save_all(document: ReportData | Comparison, outputs: Sequence[Path]) -> None:
    """Save a report or a comparison as each of the outputs, or as none."""
    with written_together() as stage:
        for path in outputs:
            save(document, stage(path))


def _unfitted(calibration: Tensor | None, plan: Plan | None) -> Tensor | None:
    """Return the calibration images that the plan held out.

    Where the plan names none, all are returned: the report then says that the network may have
    been fitted to them.
    """
    if calibration is None or plan is None or plan.heldout is None:
        return calibration
    unseen = held_out(calibration, plan.heldout)
    return unseen if len(unseen) else calibration


def _uniform(
    model: LoadedModel,
    given: LabelledData,
    plan: Plan | None,
    ranks: Sequence[int],
    progress: Progress | None,
) -> Mapping[str, nn.Module]:
    """The original at one rank throughout, solved on the calibration images (without those that
    the plan held out), not refined; what the user asked to keep is kept here too."""
    if not ranks:
        return {}
    fit = given.calibration
    if fit is not None and plan is not None and plan.heldout is not None:
        fit = fit[not_held_out(fit, plan.heldout)]
    keep = [d.name for d in plan.kept if d.reason.startswith("asked to keep")] if plan else []

    def converted(rank: int) -> nn.Module:
        return convert(
            model.module,
            rank=rank,
            keep=keep,
            example_inputs=model.inputs,
            calibration=fit,
            solver=Solver(refine=False, holdout=0),
            progress=progress,
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FidelityWarning)  # the report says how near they are
        return {f"uniform rank {rank}, unrefined": converted(rank) for rank in ranks}


def _sizes(
    request: ReportRequest, original: LoadedModel, converted: LoadedModel
) -> tuple[int, int] | None:
    """Bytes on disk before and after, where both files are of one kind."""
    alike = Path(request.before).suffix == Path(request.after).suffix
    if original.size and converted.size and alike:
        return (original.size, converted.size)
    return None


def parse_ranks(text: str | None) -> tuple[int, ...]:
    """ "1,2,3" -> (1, 2, 3). Raises UsageError for what is no list of ranks from 1."""
    try:
        ranks = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        ranks = (0,)
    if any(rank < 1 for rank in ranks):
        raise UsageError(f"--uniform {text!r} is not a list of ranks such as 1,2,3")
    return ranks
