"""Files in, files out: what `sepify convert` and `sepify report` do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sepify.convert import convert
from sepify.errors import UntrainedWarning, UsageError
from sepify.factorize.factors import Order
from sepify.forms import require_form, save_model
from sepify.image_files import read_images, read_labelled
from sepify.input_note import note_inputs
from sepify.lessons import Lesson, describe, prepare, save_history
from sepify.measuring import Report, compare
from sepify.models import InputRequest, LoadedModel, load_model
from sepify.multipliers import inputs_for
from sepify.passes.thin_channels import NOT_THINNED
from sepify.planning.budget import read_budget
from sepify.planning.plan import Method, Plan, Style
from sepify.planning.plan_file import load_plan, save_plan
from sepify.processes import is_main_process
from sepify.storage import require_writable

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ConversionRequest:
    """The options of `sepify convert`."""

    model: str
    output: Path
    inputs: InputRequest | None = None
    rank: int = 1
    order: str = "dw-pw"
    style: str | None = None
    width: float | None = None
    resolution: float | None = None
    keep: tuple[str, ...] = ()
    budget: str | None = None
    plan: Path | None = None
    calibration: Path | None = None
    method: str | None = None
    memory: float = 4.0  # GiB
    data: Path | None = None
    distill: Lesson | None = None
    report: bool = True


@dataclass(frozen=True)
class ConversionResult:
    """What to tell the user, and the files written; nothing in a process that is not the first."""

    summary: str
    written: tuple[Path, ...]


def convert_file(request: ConversionRequest, progress: Progress) -> ConversionResult:
    """Convert a model file; write OUTPUT in the form that its suffix names, OUTPUT's .plan.json
    and, if asked, its reports.

    A model with nothing to separate is written as it was captured, and the summary says so.
    Everything that can be refused is refused before the first file is written.
    """
    require_form(request.output)
    require_writable(request.output.parent)
    budget = None if request.budget is None else read_budget(request.budget)
    plan = None if request.plan is None else load_plan(request.plan)
    calibration = None if request.calibration is None else read_images(request.calibration)
    labelled = None if request.data is None else read_labelled(request.data)
    lesson = None if request.distill is None else prepare(request.distill, request.output)
    model = load_model(request.model, request.inputs)
    with warnings.catch_warnings():
        if lesson is not None:  # what is to be trained will be
            warnings.simplefilter("ignore", UntrainedWarning)
        small = convert(
            model.module,
            rank=request.rank,
            order=cast(Order, request.order),
            budget=budget,
            plan=plan,
            style=cast("Style | None", request.style),
            width=request.width,
            resolution=request.resolution,
            keep=request.keep,
            example_inputs=model.inputs,
            calibration=calibration,
            method=cast("Method | None", request.method),
            memory=int(request.memory * 2**30),
            progress=progress,
        )
    done: Plan = small.meta["sepify"].plan
    if lesson is not None and done.changes:
        small = lesson.teach(small, model.module, progress)
    if not is_main_process():
        return ConversionResult("", ())
    how = save_model(small, request.output, inputs_for(done, model.inputs))
    plan_file = request.output.with_suffix(".plan.json")
    save_plan(done, plan_file)
    written = [request.output, plan_file]
    if lesson is not None and done.changes:
        how = f"{describe(small)}; {how}"
        written.append(request.output.with_suffix(".distillation.json"))
        save_history(small, written[-1])
        lesson.forget()
    if request.report and done.changes:
        report = compare(
            model.module,
            small,
            model.inputs,
            data=labelled,
            unlabelled=calibration,
            target=None,
            threads=(),
            sizes=_sizes(model, Path(request.model), request.output),
            progress=progress,
        )
        for suffix in (".report.json", ".report.html"):
            path = request.output.with_suffix(suffix)
            report.save(path)
            written.append(path)
    notes = [note for note in small.meta["sepify"].notes if note.startswith(NOT_THINNED)]
    return ConversionResult("\n".join([_summary(done, how), *notes]), tuple(written))


def compare_files(
    before: str,
    after: str,
    *,
    inputs: InputRequest | None = None,
    data: Path | None = None,
    plan: Path | None = None,
    target: str | None = "native",
    outputs: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Report:
    """The report on two models, saved as each of `outputs` (.html or .json, checked beforehand);
    the plan beside `after` is used where none is named."""
    for path in outputs:
        if path.suffix not in (".html", ".json"):
            raise UsageError(f"{path}: a report is saved as .html or .json")
        require_writable(path.parent)
    original = load_model(before, inputs)
    beside = Path(after).with_suffix(".plan.json")
    plan = plan or (beside if beside.is_file() else None)
    done = None if plan is None else load_plan(plan)
    noted = note_inputs(inputs_for(done, original.inputs))
    converted = load_model(after, InputRequest(noted.shapes, noted.dtypes))
    sizes = None
    if original.size and converted.size and Path(before).suffix == Path(after).suffix:
        sizes = (original.size, converted.size)
    report = compare(
        original.module,
        converted.module,
        original.inputs,
        data=None if data is None else read_labelled(data),
        plan=done,
        target=target,
        sizes=sizes,
        progress=progress,
    )
    for path in outputs:
        report.save(path)
    return report


def _sizes(model: LoadedModel, source: Path, output: Path) -> tuple[int, int] | None:
    """Bytes on disk before and after, where both files are of one kind."""
    if model.size is None or source.suffix != output.suffix:
        return None
    return (model.size, output.stat().st_size)


def _summary(plan: Plan, how: str) -> str:
    if not plan.decisions:
        return "nothing to do: the model has no convolutions; it was written as it is"
    if not plan.changes:
        first = plan.kept[0]
        return (
            f"nothing to do: none of {len(plan.decisions)} convolutions can be separated "
            f"({first.name}: {first.reason}); it was written as it is"
        )
    before = sum(decision.before.macs or 0 for decision in plan)
    after = sum(decision.after.macs or 0 for decision in plan)
    return (
        f"{len(plan.separated)} of {len(plan.decisions)} convolutions separated by {plan.method} "
        f"({plan.shape}); MACs of the convolutions {before:,} -> {after:,} "
        f"({after / max(before, 1):.2f}x); {how}"
    )
