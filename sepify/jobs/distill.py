"""Files in, files out: what `sepify distill` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sepify.capture import capture
from sepify.conversion import Conversion
from sepify.formats.input_note import InputRequest, note_inputs
from sepify.formats.load import load_model
from sepify.formats.save import save_model
from sepify.formats.table import output_format
from sepify.images import read_preparation
from sepify.jobs.distillation_options import (
    DistillationOptions,
    describe,
    prepare,
    save_history,
)
from sepify.plans.file import load_plan, save_plan
from sepify.plans.resolution import inputs_for
from sepify.process.progress import Progress
from sepify.process.starting import is_main_process
from sepify.storage import require_writable, written_together


@dataclass(frozen=True)
class DistillationRequest:
    """The options of `sepify distill`."""

    student: str
    teacher: str
    output: Path
    options: DistillationOptions
    inputs: InputRequest | None = None
    preprocess: str | None = None


@dataclass(frozen=True)
class DistillationResult:
    """What to tell the user, and the files written; nothing in a process that is not the first."""

    summary: str
    written: tuple[Path, ...]


def distill_file(request: DistillationRequest, progress: Progress) -> DistillationResult:
    """Teach a converted model file; write OUTPUT in the form that its suffix names, OUTPUT's
    .distillation.json, and the plan beside it where the student has one beside it: all or none.

    In several processes (`accelerate launch`) the first writes; the others' result is empty.
    """
    output_format(request.output)
    require_writable(request.output.parent)
    preparation = None if request.preprocess is None else read_preparation(request.preprocess)
    original = load_model(request.teacher, request.inputs)
    shape = tuple(original.inputs[0].shape)
    prepared = prepare(request.options, request.output, preparation, shape)
    noted = note_inputs(original.inputs)
    converted = load_model(request.student, InputRequest(noted.shapes, noted.dtypes))
    beside = Path(request.student).with_suffix(".plan.json")
    plan = load_plan(beside) if beside.is_file() else None
    captured = capture(converted.module, inputs_for(plan, converted.inputs))
    student = captured.graph_module
    if plan is not None:
        student.meta["sepify"] = Conversion(plan, captured.front_end, captured.notes)
    if plan is not None:
        prepared = prepared.apart_from(plan.heldout)
    taught = prepared.teach(student, original.module, progress)
    if not is_main_process():
        return DistillationResult("", ())
    written = [request.output, request.output.with_suffix(".distillation.json")]
    with written_together() as stage:
        how = save_model(taught, stage(request.output), inputs_for(plan, converted.inputs))
        save_history(taught, stage(written[-1]))
        if plan is not None:
            written.append(request.output.with_suffix(".plan.json"))
            save_plan(plan, stage(written[-1]))
    prepared.forget()
    return DistillationResult(f"{describe(taught)}; {how}", tuple(written))
