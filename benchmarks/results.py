"""The rows of the factorisation benchmark: measured, stored so that a run can go on, printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pruning import conv_macs
from rich.console import Console
from rich.table import Table
from subjects import Subject
from torch import Tensor, nn

from sepify.judging.fidelity import fidelity
from sepify.judging.statistics import wilson
from sepify.storage import read_json, write_json

BATCH = 250
WIDTHS = {"rank": 4, "method": 19, "MACs": 5, "top-1, 95 %": 18, "agree": 5, "dB": 5, "s": 6}


@dataclass(frozen=True)
class Row:
    """One network made by one method: conv MACs as a share of the original's; top-1 with its Wilson
    interval and the agreement with the original's largest output where there are labels; cosine and
    SQNR of the outputs with the original's; CPU seconds that making it took; test images, and
    whether those are all."""

    subject: str
    method: str
    rank: int  # 0 for the original
    macs: float
    top1: tuple[float, float, float] | None
    agreement: float | None
    cosine: float
    sqnr: float | None
    seconds: float
    images: int
    whole: bool

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells rows apart: a run on fewer images is another row."""
        return self.subject, self.method, self.rank, self.images


class Results:
    """Rows on disk, written whole after each."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        self.rows: dict[tuple[str, str, int, int], Row] = {}
        if fresh:
            path.unlink(missing_ok=True)
        self._read()

    def _read(self) -> None:
        if self.path.is_file():
            self.rows |= {row.key: row for row in map(_row, read_json(self.path))}

    def add(self, row: Row) -> None:
        """Keep `row`, in place of an older one of its key, beside what other runs have added."""
        self._read()
        self.rows[row.key] = row
        write_json(self.path, [asdict(row) for row in self.rows.values()])

    def find(self, subject: str, method: str, rank: int, images: int) -> Row | None:
        """The row already measured, if it is."""
        return self.rows.get((subject, method, rank, images))


def measure(
    key: str,
    subject: Subject,
    method: str,
    rank: int,
    network: nn.Module,
    wanted: Tensor,
    seconds: float,
    whole: bool,
) -> Row:
    """Run `network` on the test images of `subject`; `wanted` is what the original puts out."""
    given = outputs(network, subject.images.test)
    if not torch.isfinite(given).all():
        raise ArithmeticError(f"{method} at rank {rank} gave NaN or infinity on {key}")
    pairs = zip(wanted.split(BATCH), given.split(BATCH), strict=True)
    kept = fidelity(((y,), (z,)) for y, z in pairs)
    example = subject.images.test[:1]
    labels = subject.images.labels
    top1 = agreement = None
    if labels is not None:
        interval = wilson(int((given.argmax(1) == labels).sum()), len(labels))
        top1 = (interval.value, interval.low, interval.high)
        agreement = kept.agreement.value if kept.agreement else None
    share = conv_macs(network, example) / conv_macs(subject.network, example)
    return Row(
        key,
        method,
        rank,
        share,
        top1,
        agreement,
        kept.cosine,
        kept.sqnr,
        seconds,
        len(given),
        whole,
    )


@torch.inference_mode()
def outputs(network: nn.Module, images: Tensor) -> Tensor:
    """The outputs of `network` for (n, C, H, W), batch by batch."""
    return torch.cat([network(part) for part in images.split(BATCH)]).clone()


def print_heading(console: Console, title: str, images: int, whole: bool) -> None:
    """A title and the names of the columns."""
    console.print()
    console.print(f"[bold]{title}[/bold], {images:,} test images")
    if not whole:
        console.print("[yellow]Not the whole test set: a quick look only.[/yellow]")
    _print_cells(console, list(WIDTHS), style="dim")


def print_row(console: Console, row: Row, ours: bool) -> None:
    """`row` under the heading."""
    _print_cells(console, _cells(row), style="bold" if ours else "")


def _cells(row: Row) -> Iterable[str]:
    yield str(row.rank or "")
    yield row.method
    yield f"{row.macs:.3f}"
    yield (
        "-" if row.top1 is None else "{:.2f} [{:.1f}, {:.1f}]".format(*(100 * v for v in row.top1))
    )
    yield "-" if row.agreement is None else f"{100 * row.agreement:.1f}"
    yield "-" if row.sqnr is None else f"{row.sqnr:.1f}"
    yield f"{row.seconds:.1f}"


def _print_cells(console: Console, cells: Iterable[str], style: str) -> None:
    line = Table.grid(padding=(0, 1))
    for number, width in enumerate(WIDTHS.values()):
        line.add_column(width=width, justify="left" if number == 1 else "right", no_wrap=True)
    line.add_row(*(cell.replace("[", r"\[") for cell in cells), style=style)
    console.print(line)


def _row(item: dict[str, object]) -> Row:
    top1 = item["top1"]
    return Row(**{**item, "top1": tuple(top1) if isinstance(top1, list) else None})  # type: ignore[arg-type]
