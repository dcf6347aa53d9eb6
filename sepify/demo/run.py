"""The whole job on the shipped network: convert, compile, compare, report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx

from sepify.calibration.solver import Solver
from sepify.capture import capture
from sepify.compiling import compile as compile_model
from sepify.conversion import convert
from sepify.demo.data import CLASSES, DATA_FILE, MODEL_FILE, load_demo_data
from sepify.formats.torchscript_read import load_torchscript
from sepify.formats.torchscript_write import save_torchscript, to_torchscript
from sepify.jobs.data_options import DataRequest, origin_of
from sepify.measuring import Report, compare
from sepify.measuring.options import Alternatives, Judging, Provenance, Timing
from sepify.plans.file import save_plan
from sepify.plans.plan import Plan
from sepify.process.progress import Progress
from sepify.report.model import Origin
from sepify.storage import require_writable, written_together

CALIBRATION_IMAGES = 1_024
COMPARED_RANKS = (1, 2, 3)
INPUT_SHAPE = (1, 1, 28, 28)


@dataclass(frozen=True)
class DemoResult:
    """The report, and every file that was written."""

    report: Report
    written: tuple[Path, ...]


def run_demo(folder: Path, rank: int, progress: Progress) -> DemoResult:
    """Convert the shipped Fashion-MNIST ResNet at `rank`, compile both networks for this CPU,
    measure them on the whole test set, and write everything to `folder`, or nothing.

    The stem is kept: with one input channel, rank 1 would leave it a single filter. Calibration
    uses 1,024 training images without their labels; the test set is only ever measured on.
    """
    require_writable(folder)
    file = load_torchscript(MODEL_FILE)
    data = load_demo_data()
    example = data.images[:1]
    calibration = data.calibration[:CALIBRATION_IMAGES]

    original = capture(file.module, (example,)).graph_module
    small = convert(
        file.module,
        rank=rank,
        keep=("stem",),
        example_inputs=example,
        calibration=calibration,
        solver=Solver(holdout=0),  # the test set judges
        progress=progress,
    )
    small_file, plan_file, bundle = folder / "small.pt", folder / "plan.json", folder / "bundle"
    reports = (folder / "report.json", folder / "report.html", folder / "report.md")

    with written_together() as stage:
        save_torchscript(to_torchscript(small, (example,))[0], stage(small_file), [INPUT_SHAPE])
        save_plan(small.meta["sepify"].plan, stage(plan_file))

        before = compile_model(original, example, progress=progress)
        after = compile_model(small, example, progress=progress)
        after.save(stage(bundle))

        report = compare(
            original,
            small,
            example,
            data=(data.images, data.labels),
            judging=Judging(names=CLASSES),
            timing=Timing(compiled=(before, after)),
            alternatives=Alternatives(_uniform(original, example, calibration, progress, but=rank)),
            provenance=Provenance(
                sizes=(file.size, stage(small_file).stat().st_size),
                origin=_origin(
                    folder, rank, small.meta["sepify"].plan, {plan_file: stage(plan_file)}
                ),
            ),
            progress=progress,
        )
        for path in reports:
            report.save(stage(path))
    return DemoResult(report, (small_file, plan_file, bundle, *reports))


def _uniform(
    original: fx.GraphModule, example: Tensor, calibration: Tensor, progress: Progress, *, but: int
) -> dict[str, fx.GraphModule]:
    """Other ranks, solved but not refined, to stand beside the demo's own on the frontier."""
    return {
        f"uniform rank {rank}, unrefined": convert(
            original,
            rank=rank,
            keep=("stem",),
            example_inputs=example,
            calibration=calibration,
            solver=Solver(refine=False, holdout=0),
            progress=progress,
        )
        for rank in COMPARED_RANKS
        if rank != but
    }


def _origin(folder: Path, rank: int, plan: Plan, staged: Mapping[Path, Path]) -> Origin:
    (plan_file,) = staged
    command = shlex.join(["sepify", "demo", "--rank", str(rank), "-o", str(folder)])
    roles = {"the original": MODEL_FILE, "images and labels": DATA_FILE, "the plan": plan_file}
    return origin_of(roles, DataRequest(command=command), plan, staged=staged)
