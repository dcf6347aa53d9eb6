"""How much of a trained network each factorisation keeps, at the same cost and without training.

    pip install -e .[bench]
    apt-get install dataset-fashion-mnist && python benchmarks/train_vgg.py    # for "vgg" alone
    OMP_NUM_THREADS=1 python benchmarks/factorize.py --networks demo,resnet20,vgg,opennsfw

Every 3x3 convolution but the stem is rewritten at ranks 1, 2, 3; the rivals get the multiply-adds
that ours has there as dw-pw, layer by layer, and the same calibration images. pw-dw costs more
where the stride is 2: see the MACs column. Rows go to benchmarks/out/factorize.json as they are
measured, and a later run goes on from there. Seconds are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from image_sets import OUT, SEED
from methods import METHODS, Method
from results import Results, Row, measure, outputs, print_heading, print_row
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from subjects import SUBJECTS, Subject
from torch import Tensor

from sepify.errors import FileError, SepifyError

RESULTS_FILE = OUT / "factorize.json"
ORIGINAL = "the original"


def main() -> None:
    """Measure what was asked for and is not yet known; print every row."""
    options = _options()
    console = Console(width=80, highlight=False)
    results = Results(RESULTS_FILE, options.fresh)
    for key in options.networks:
        try:
            subject = SUBJECTS[key]()
        except FileError as error:
            console.print(f"\n[yellow]{key} skipped: {error}[/yellow]")
            continue
        every = len(subject.images.test)
        subject = replace(subject, images=subject.images.limited(options.limit_test))
        whole = len(subject.images.test) == every
        _run(console, results, key, subject, options.methods, options.ranks, whole)
    console.print(f"\nAll rows: {RESULTS_FILE.relative_to(OUT.parent.parent)}")


def _run(
    console: Console,
    results: Results,
    key: str,
    subject: Subject,
    methods: Sequence[Method],
    ranks: Sequence[int],
    whole: bool,
) -> None:
    count = len(subject.images.test)
    print_heading(console, subject.title, count, whole)
    wanted = outputs(subject.network, subject.images.test)
    original = measure(key, subject, ORIGINAL, 0, subject.network, wanted, 0.0, whole)
    results.add(original)
    print_row(console, original, ours=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(key, total=len(ranks) * len(methods))
        for rank in ranks:
            for method in methods:
                progress.update(task, description=f"{key}: {method.name}, rank {rank}")
                row = results.find(key, method.name, rank, count)
                if row is None:
                    row = _make(console, key, subject, method, rank, wanted, whole)
                    if row is not None:
                        results.add(row)
                if row is not None:
                    print_row(console, row, method.ours)
                progress.advance(task)


def _make(
    console: Console,
    key: str,
    subject: Subject,
    method: Method,
    rank: int,
    wanted: Tensor,
    whole: bool,
) -> Row | None:
    """The row, or None where the method fails on this network: said, and the run goes on."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    begun = time.process_time()
    try:
        network = method.make(subject, rank)
        seconds = time.process_time() - begun
        return measure(key, subject, method.name, rank, network, wanted, seconds, whole)
    except (SepifyError, ArithmeticError, RuntimeError, ValueError, np.linalg.LinAlgError) as error:
        console.print(f"{rank:>4} {method.name}: failed, {type(error).__name__}: {error}")
        return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = ", ".join(method.name for method in METHODS)
    parser.add_argument("--networks", default="demo,resnet20,vgg", help=", ".join(SUBJECTS))
    parser.add_argument("--ranks", default="1,2,3")
    parser.add_argument(
        "--methods", default="", help=f"parts of names with / between; there are: {names}"
    )
    parser.add_argument("--limit-test", type=int, help="a quick look on so many test images")
    parser.add_argument("--fresh", action="store_true", help="forget the rows measured before")
    options = parser.parse_args()
    options.networks = options.networks.split(",")
    unknown = [name for name in options.networks if name not in SUBJECTS]
    if unknown:
        parser.error(f"no network {unknown[0]!r}; there are {', '.join(SUBJECTS)}")
    options.ranks = [int(rank) for rank in options.ranks.split(",")]
    parts = [part.strip() for part in options.methods.split("/") if part.strip()]
    options.methods = [m for m in METHODS if not parts or any(part in m.name for part in parts)]
    if not options.methods:
        parser.error(f"no method named so; there are {names}")
    return options


if __name__ == "__main__":
    main()
