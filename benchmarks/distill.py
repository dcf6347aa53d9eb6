"""What distillation recovers, against the CPU minutes it takes, from several starts.

    pip install -e .[bench,distill]
    apt-get install dataset-fashion-mnist                        # for "demo" alone
    OMP_NUM_THREADS=1 python benchmarks/distill.py --rows aims     # about 140 CPU minutes
    OMP_NUM_THREADS=1 python benchmarks/distill.py --rows starts   # about 50
    OMP_NUM_THREADS=1 python benchmarks/distill.py --rows short    # about 20
    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/distill.py --rows frozen  # 10 minutes

The original network teaches by soft targets: no labels anywhere, the whole training set, one image
in fifty of it held out to judge by; the whole test set is scored once, at the end. "aims" are the
long runs, "starts" compares where the student begins, with and without layer-wise matching, at a
smaller budget: "solved" is `sepify.convert` as it comes (least squares, refined), "svd" has
BatchNorm re-estimated, "random" is the same network with its depthwise and pointwise weights drawn
anew. Rows go to benchmarks/out/distill.json as they are done; a run that is interrupted goes on
within its row, from a checkpoint. Minutes are CPU minutes of this process, conversion apart.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from image_sets import OUT, SEED, cifar10_training, fashion_mnist_training
from pruning import conv_macs
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from subjects import SUBJECTS, Subject
from torch import Tensor, fx, nn

import sepify
from sepify.distilling import Distillation, Losses, Training, shift_and_mirror
from sepify.errors import FileError
from sepify.judging.statistics import top1, wilson
from sepify.passes.separate import chains
from sepify.storage import read_json, write_json

RESULTS_FILE = OUT / "distill.json"
IMAGES: dict[str, Callable[[], Tensor]] = {
    "resnet20": cifar10_training,
    "demo": fashion_mnist_training,
}
SHIFT = {"resnet20": 4, "demo": 2}  # pixels, and mirrored
FIRST = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun has started


@dataclass(frozen=True)
class Trial:
    """One row to measure: `layers` says whether layers are matched too, `fast` whether both
    networks are channels-last and in bf16, which CPUs with AMX multiply fastest, `frozen` whether
    only what is rewritten or comes after it learns; `shift` is in pixels, None the subject's own.
    """

    subject: str
    rank: int
    start: str
    layers: bool
    epochs: int
    rate: float = 2e-3
    temperature: float = 3.0
    fast: bool = False
    frozen: bool = False
    batch: int = 128
    shift: int | None = None

    @property
    def key(self) -> str:
        """Its name in files and tables."""
        matched = "layers" if self.layers else "outputs"
        soft = f"-t{self.temperature:g}" if self.temperature != 3.0 else ""
        name = f"{self.subject}-r{self.rank}-{self.start}-{matched}-{self.epochs}x{self.rate:g}"
        batch = f"-b{self.batch}" if self.batch != 128 else ""
        shift = "" if self.shift is None else f"-shift{self.shift}"
        told = f"{'-fast' if self.fast else ''}{'-frozen' if self.frozen else ''}"
        return f"{name}{soft}{batch}{shift}{told}"


# what two cores do in ten minutes of the clock
TEN_MINUTES = Trial(
    "demo", 1, "solved", False, 30, 12e-3, 6.0, fast=True, frozen=True, batch=256, shift=0
)
AIMS = (
    Trial("resnet20", 1, "solved", True, 12),
    Trial("resnet20", 2, "solved", True, 10),
    Trial("demo", 1, "solved", True, 18),
    # rate and temperature by what 6,000 training images say after four epochs (README.md)
    Trial("demo", 1, "solved", True, 18, rate=6e-3, temperature=6.0),
    Trial("demo", 1, "solved", True, 25, rate=6e-3, temperature=6.0, fast=True),
    Trial("demo", 1, "solved", False, 25, rate=6e-3, temperature=6.0, fast=True),
    TEN_MINUTES,
)
SHORT = (
    Trial("resnet20", 1, "solved", True, 3),
    Trial("resnet20", 2, "solved", True, 3),
    Trial("demo", 1, "solved", True, 2),
)
STARTS = tuple(
    Trial("resnet20", 1, start, layers, 2)
    for start in ("solved", "svd", "random")
    for layers in (True, False)
)
GROUPS = {"short": SHORT, "aims": AIMS, "starts": STARTS}


def main() -> None:
    """Measure what was asked for and is not yet known; print every row."""
    options = _options()
    console = Console(width=100, highlight=False, quiet=not FIRST)
    rows = read_json(RESULTS_FILE) if RESULTS_FILE.is_file() else {}
    console.print(
        f"{'row':38} {'MACs':>5} {'before':>6} {'start':>6} {'after, 95 %':>18} {'agree':>6} "
        f"{'CPU min':>7} {'convert':>7}"
    )
    for trial in options.trials:
        if trial.key not in rows:
            try:
                row = _measure(trial, console)
            except FileError as error:
                console.print(f"[yellow]{trial.key} skipped: {error}[/yellow]")
                continue
            if not FIRST:
                continue
            # beside what other runs have added meanwhile
            rows = {**(read_json(RESULTS_FILE) if RESULTS_FILE.is_file() else {}), trial.key: row}
            write_json(RESULTS_FILE, rows)
        console.print(_line(trial.key, rows[trial.key]))
        for epoch in rows[trial.key]["curve"]:
            console.print(
                f"    {epoch['minutes']:6.1f} min  agreement {epoch['agreement']:.2%}", style="dim"
            )
    console.print(f"\nAll rows: {RESULTS_FILE.relative_to(OUT.parent.parent)}")


def _measure(trial: Trial, console: Console) -> dict[str, object]:
    """Convert, distil, score the whole test set."""
    subject = SUBJECTS[trial.subject]()
    images = IMAGES[trial.subject]()
    student, converted = _student(trial, subject)
    if trial.fast:
        for network in (student, subject.network):
            network.to(memory_format=torch.channels_last)
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    judges = len(images) // 50
    checkpoint = OUT / f"distill-{trial.key}.checkpoint"
    began = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(trial.key)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        small = sepify.distill(
            student,
            teacher=subject.network,
            data=images[drawn[judges:]],
            heldout=images[drawn[:judges]],
            epochs=trial.epochs,
            losses=Losses(temperature=trial.temperature, layers=1.0 if trial.layers else 0.0),
            training=Training(
                batch=trial.batch,
                rate=trial.rate,
                seed=SEED,
                mixed_precision="bf16" if trial.fast else "no",
                unchanged="frozen" if trial.frozen else "train",
                augment=shift_and_mirror(
                    SHIFT[trial.subject] if trial.shift is None else trial.shift
                ),
            ),
            checkpoint=sepify.Checkpoint(checkpoint, resume=True),
            progress=show,
        )
    clock = (time.monotonic() - began) / 60
    done: Distillation = small.meta["sepify.distillation"]
    test, labels = subject.images.test, subject.images.labels
    assert labels is not None
    before, start, after = (top1(net, test, labels) for net in (subject.network, student, small))
    interval = wilson(round(after * len(labels)), len(labels))
    example = test[:1]
    if FIRST:
        checkpoint.unlink()
    return {
        **asdict(trial),
        "macs": conv_macs(small, example) / conv_macs(subject.network, example),
        "before": before,
        "start_top1": start,
        "top1": [interval.value, interval.low, interval.high],
        "agreement": done.judgement.agreement,
        "minutes": done.epochs[-1].cpu_seconds / 60,  # of this process
        "threads": torch.get_num_threads(),
        "processes": done.processes,
        "clock_minutes": clock,  # of this run: less than it took if it was resumed
        "convert_minutes": converted / 60,
        "best_epoch": done.best,
        "images": len(images) - judges,
        "test_images": len(labels),
        "curve": [
            {
                "minutes": epoch.cpu_seconds / 60,
                "agreement": epoch.judgement.agreement,
                "loss": epoch.loss,
            }
            for epoch in done.epochs
        ],
    }


def _student(trial: Trial, subject: Subject) -> tuple[fx.GraphModule, float]:
    """The start of a row, and the CPU seconds that making it took; kept for the other rows."""
    weights = OUT / f"distill-{trial.subject}-r{trial.rank}-{trial.start}.safetensors"
    plan, taken = weights.with_suffix(".plan.json"), weights.with_suffix(".seconds.json")
    if not taken.is_file():
        begun = time.process_time()
        torch.manual_seed(SEED)
        student = STARTERS[trial.start](subject, trial.rank)
        sepify.save_model(student, weights, (subject.images.test[:1],))
        sepify.save_plan(student.meta["sepify"].plan, plan)
        write_json(taken, time.process_time() - begun)
    return sepify.load_weights(subject.network, plan, weights), read_json(taken)


def _solved(subject: Subject, rank: int) -> fx.GraphModule:
    calibration = subject.images.calibration
    return sepify.convert(
        subject.network,
        rank=rank,
        keep=(subject.stem,),
        calibration=calibration,
        solver=sepify.Solver(holdout=0),
    )


def _svd(subject: Subject, rank: int) -> fx.GraphModule:
    return sepify.convert(
        subject.network,
        rank=rank,
        keep=(subject.stem,),
        calibration=subject.images.calibration,
        solver=sepify.Solver(holdout=0, method="svd"),
    )


def _random(subject: Subject, rank: int) -> fx.GraphModule:
    """The same layers with torch's own initial weights; the rest as it was."""
    student = sepify.convert(
        subject.network, rank=rank, keep=(subject.stem,), solver=sepify.Solver(method="svd")
    )
    for name in chains(student):
        for module in student.get_submodule(name).modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    return student


STARTERS: dict[str, Callable[[Subject, int], fx.GraphModule]] = {
    "solved": _solved,
    "svd": _svd,
    "random": _random,
}


def _line(key: str, row: dict[str, object]) -> str:
    top = "{:.2f} \\[{:.1f}, {:.1f}]".format(*(100 * value for value in row["top1"]))  # type: ignore[attr-defined]
    return (
        f"{key:38} {row['macs']:5.3f} {row['before']:6.2%} {row['start_top1']:6.2%} {top:>19} "
        f"{row['agreement']:6.2%} {row['minutes']:7.1f} {row['convert_minutes']:7.1f}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    every = tuple(dict.fromkeys(trial for group in GROUPS.values() for trial in group))
    parser.add_argument("--rows", default="aims,starts", help="short, aims, starts; parts of names")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    options = parser.parse_args()
    chosen: list[Trial] = []
    for part in options.rows.split(","):
        found = GROUPS.get(part, [trial for trial in every if part in trial.key])
        if not found:
            parser.error(f"no row with {part!r} in its name; --list names them")
        chosen += found
    options.trials = list(dict.fromkeys(chosen))
    if options.list:
        print("\n".join(trial.key for trial in every))
        raise SystemExit(0)
    return options


if __name__ == "__main__":
    main()
