"""The MobileNet paper's tables: the same costs exactly, and accuracies at a size that a CPU trains.

    pip install -e .[bench,distill]
    python benchmarks/mobilenet_table.py --what counts
    apt-get install dataset-fashion-mnist                           # for "fashion"
    OMP_NUM_THREADS=1 python benchmarks/mobilenet_table.py --what accuracy --datasets fashion

"counts" converts Conv MobileNet (every separable block one 3x3 convolution) in style mobilenet and
prints multiply-adds and parameters beside those of Howard et al. 2017, tables 4, 6 and 7.

"accuracy" trains a short network of the same kind (four blocks, 32 to 256 channels, the first
convolution of stride 2) on Fashion-MNIST or on CIFAR-10 JPEG, a few epochs a row, three seeds:
"standard" and "separable" from scratch, with labels; "distilled" is the standard one of that seed
after `sepify.convert` in style "mobilenet" at a width on 1,024 unlabelled images (column "start")
and `sepify.distill`, as many epochs, soft targets alone, no labels. Scored on the whole test set.
Rows go to benchmarks/out/mobilenet_table.json as they are done, seed by seed; an interrupted run
goes on with the next row. `--limit` takes fewer training images, for a look.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from image_sets import (
    CALIBRATION_IMAGES,
    OUT,
    SEED,
    cifar10,
    cifar10_training_labelled,
    fashion_mnist,
    fashion_mnist_training_labelled,
)
from mobilenets import SMALL, MobileNet, convert_mobilenet, costs
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, fx, nn

import sepify
from sepify.distilling import Training, shift_and_mirror
from sepify.errors import DistillationWarning, FileError, UntrainedWarning
from sepify.judging.statistics import top1
from sepify.storage import atomic_path, read_json, write_json

RESULTS_FILE = OUT / "mobilenet_table.json"
# (width, resolution, mult-adds in millions, parameters in millions) as the paper prints them
PAPER = (
    (1.0, 224, 569, 4.2),
    (0.75, 224, 325, 2.6),
    (0.5, 224, 149, 1.3),
    (0.25, 224, 41, 0.5),
    (1.0, 192, 418, 4.2),
    (1.0, 160, 290, 4.2),
    (1.0, 128, 186, 4.2),
)
WIDTHS = (1.0, 0.75, 0.5, 0.25)
BATCH = 128
RATE = 0.1  # the peak, from scratch
DISTILLING_RATE = 2e-3  # of AdamW

Show = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


@dataclass(frozen=True)
class Dataset:
    """Images ready for a network, with how far augmentation shifts them."""

    images: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    shift: int

    def limited(self, limit: int | None) -> Dataset:
        """The same with at most `limit` training images, drawn at random."""
        drawn = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(SEED))
        drawn = drawn[:limit].sort().values
        return replace(self, images=self.images[drawn], labels=self.labels[drawn])


@dataclass(frozen=True)
class Row:
    """What to measure: `kind` is "standard", "separable" or "distilled"; `images` to train on."""

    dataset: str
    seed: int
    kind: str
    width: float
    epochs: int
    images: int

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        return f"{self.kind}-{self.width:g}-{self.setting}"

    @property
    def setting(self) -> str:
        """What rows have in common that can be compared, but for the seed, which is in it too."""
        return f"{self.dataset}-{self.epochs}x{self.images}-seed{self.seed}"


def print_counts(console: Console) -> None:
    """Both networks, then every width and resolution, beside the paper."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("network", "conv MACs", "conv + fc MACs", "parameters", "the paper"):
        table.add_column(column, justify="left" if column == "network" else "right")

    def add(name: str, network: nn.Module, size: int, paper: str) -> None:
        numbers = costs(network, torch.zeros(1, 3, size, size))
        table.add_row(name, *(f"{number:,}" for number in numbers), paper)

    add("Conv MobileNet", MobileNet(separable=False).eval(), 224, "4866 M, 29.3 M")
    for width, size, macs, params in PAPER:
        network = convert_mobilenet(width, None if size == 224 else size)
        add(f"converted, {width:g} at {size}", network, size, f"{macs} M, {params} M")
    console.print(table)


def fashion() -> Dataset:
    """Fashion-MNIST, (n, 1, 28, 28), mean 0 and deviation 1 over the training set."""
    images, labels = fashion_mnist_training_labelled()
    shown = fashion_mnist()
    assert shown.labels is not None
    mean, std = 72.94, 90.02
    return Dataset((images - mean) / std, labels, (shown.test - mean) / std, shown.labels, 2)


def cifar() -> Dataset:
    """CIFAR-10 from its JPEG files, (n, 3, 32, 32)."""
    images, labels = cifar10_training_labelled()
    shown = cifar10()
    assert shown.labels is not None
    return Dataset(images, labels, shown.test, shown.labels, 4)


DATASETS: dict[str, Callable[[], Dataset]] = {"fashion": fashion, "cifar10": cifar}


def rows_of(dataset: str, seed: int, epochs: int, images: int) -> list[Row]:
    """A seed's rows: the teacher first."""
    of = partial(Row, dataset, seed, epochs=epochs, images=images)
    rows = [of(kind="standard", width=1.0)]
    for width in WIDTHS:
        rows += [of(kind="separable", width=width), of(kind="distilled", width=width)]
    return rows


def measure(row: Row, data: Dataset, console: Console) -> dict[str, object]:
    """Make the network of a row and score it on the whole test set."""
    begun = time.process_time()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(row.key)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{row.key}: {what}", completed=done, total=total)

        start = None
        if row.kind == "distilled":
            converted = convert(row, data, show)
            start = score(converted, data)
            network = distill(converted, row, data, show)
        else:
            network = train(row, data, show)
    seconds = time.process_time() - begun
    convolutions, everything, params = costs(network.eval(), data.test[:1])
    return {
        **asdict(row),
        "top1": score(network, data),
        "start_top1": start,
        "conv_macs": convolutions,
        "macs": everything,
        "params": params,
        "cpu_seconds": seconds,
    }


@torch.no_grad()
def score(network: nn.Module, data: Dataset) -> float:
    """Top-1 on the whole test set, 0 to 1."""
    return top1(network.eval(), data.test, data.test_labels)


def train(row: Row, data: Dataset, show: Show) -> nn.Module:
    """From scratch: SGD with Nesterov momentum, one-cycle rate, label smoothing 0.05."""
    network = untrained(row, data).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(row.seed)
    augment, steps = shift_and_mirror(data.shift), len(data.images) // BATCH
    optimiser = torch.optim.SGD(
        network.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, RATE, total_steps=row.epochs * steps, pct_start=0.2
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(row.epochs):
        order = torch.randperm(len(data.images), generator=generator)
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            images = augment(data.images[chosen], generator)
            loss = loss_of(network(images), data.labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            show(f"loss {loss.item():.3f}", epoch * steps + step + 1, row.epochs * steps)
    if row.kind == "standard":
        with atomic_path(teacher_file(row)) as temporary:
            torch.save(network.state_dict(), temporary)
    return network


def untrained(row: Row, data: Dataset) -> MobileNet:
    """The network of a row that begins from scratch."""
    torch.manual_seed(row.seed)
    separable, channels = row.kind == "separable", data.images.shape[1]
    return MobileNet(SMALL, separable=separable, width=row.width, in_channels=channels, classes=10)


def teacher_file(row: Row) -> Path:
    """Where the standard network of a row's dataset and seed is kept."""
    return OUT / f"mobilenet_table-{row.setting}.pt"


def load_teacher(row: Row, data: Dataset) -> nn.Module:
    """The standard network of a row's dataset and seed."""
    network = untrained(replace(row, kind="standard", width=1.0), data)
    network.load_state_dict(torch.load(teacher_file(row), weights_only=True))
    return network.to(memory_format=torch.channels_last).eval()


def convert(row: Row, data: Dataset, show: Show) -> fx.GraphModule:
    """The teacher in style mobilenet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UntrainedWarning)
        return sepify.convert(
            load_teacher(row, data),
            architecture=sepify.Architecture(style="mobilenet", width=row.width),
            keep=["stem.*"],
            calibration=data.images[:CALIBRATION_IMAGES],
            solver=sepify.Solver(holdout=0),
            progress=show,
        )


def distill(converted: fx.GraphModule, row: Row, data: Dataset, show: Show) -> fx.GraphModule:
    """`converted` after distillation, one image in fifty held out to judge by."""
    student = converted.to(memory_format=torch.channels_last)
    judges = len(data.images) // 50
    drawn = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(row.seed))
    with warnings.catch_warnings():  # a thinned student has no layers to match
        warnings.simplefilter("ignore", DistillationWarning)
        return sepify.distill(
            student,
            teacher=load_teacher(row, data),
            data=data.images[drawn[judges:]],
            heldout=data.images[drawn[:judges]],
            epochs=row.epochs,
            training=Training(
                batch=BATCH,
                rate=DISTILLING_RATE,
                seed=row.seed,
                augment=shift_and_mirror(data.shift),
            ),
            progress=show,
        )


def print_accuracies(console: Console, known: dict[str, dict[str, object]]) -> None:
    """A line for each dataset, kind, width and number of epochs: mean and spread over the seeds."""
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for row in known.values():
        key = tuple(row[name] for name in ("dataset", "epochs", "images", "kind", "width"))
        groups.setdefault(key, []).append(row)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in (
        "trained on",
        "network",
        "start",
        "top-1",
        "range",
        "seeds",
        "conv MACs",
        "params",
    ):
        table.add_column(column)
    for (dataset, epochs, images, kind, width), rows in groups.items():
        scores = [100 * float(row["top1"]) for row in rows]  # type: ignore[arg-type]
        starts = [100 * float(row["start_top1"]) for row in rows if row["start_top1"]]  # type: ignore[arg-type]
        table.add_row(
            f"{dataset}, {images:,} x {epochs}",
            f"{kind}, {width:g}",
            f"{statistics.fmean(starts):.2f}" if starts else "",
            f"{statistics.fmean(scores):.2f}",
            f"{min(scores):.2f} to {max(scores):.2f}",
            str(len(scores)),
            f"{rows[0]['conv_macs']:,}",
            f"{rows[0]['params']:,}",
        )
    console.print(table)


def main() -> None:
    """Print the counts, measure the rows that are asked for and not yet known, print the table."""
    options = _options()
    console = Console(width=110, highlight=False)
    if "counts" in options.what:
        print_counts(console)
    if "accuracy" not in options.what:
        return
    for dataset in options.datasets:
        try:
            data = DATASETS[dataset]().limited(options.limit)
        except FileError as error:
            console.print(f"[yellow]{dataset} skipped: {error}[/yellow]")
            continue
        for seed in options.seeds:
            for row in rows_of(dataset, seed, options.epochs, len(data.images)):
                known = _known()
                if row.key not in known:
                    found = measure(row, data, console)
                    write_json(RESULTS_FILE, {**known, row.key: found})
                    console.print(
                        f"{row.key}: {found['top1']:.2%}, {found['cpu_seconds']:.0f} CPU s"
                    )
    print_accuracies(console, _known())


def _known() -> dict[str, dict[str, object]]:
    return read_json(RESULTS_FILE) if RESULTS_FILE.is_file() else {}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--what", default="counts,accuracy", type=_list_of("counts", "accuracy"))
    parser.add_argument("--datasets", default="fashion,cifar10", type=_list_of(*DATASETS))
    parser.add_argument(
        "--seeds", default="0,1,2", type=lambda text: [int(n) for n in text.split(",")]
    )
    parser.add_argument("--epochs", default=2, type=int, help="from scratch and of distillation")
    parser.add_argument("--limit", type=int, help="training images, drawn at random; default all")
    return parser.parse_args()


def _list_of(*allowed: str) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        chosen = text.split(",")
        if not set(chosen) <= set(allowed):
            raise argparse.ArgumentTypeError(f"choose among {', '.join(allowed)}")
        return chosen

    return read


if __name__ == "__main__":
    main()
