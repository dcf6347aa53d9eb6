"""Reports made up for the tests."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from sepify.judging.changes import Changes, ChangeTally
from sepify.judging.fidelity import Fidelity
from sepify.judging.metrics import MetricResult
from sepify.judging.statistics import Accuracy, Interval
from sepify.measuring import Report, load_report
from sepify.process.machine import Machine
from sepify.report.model import (
    InputFile,
    LayerRow,
    Origin,
    Prospect,
    RankPoint,
    Totals,
    Variant,
)
from sepify.timing.board import BoardLatency
from sepify.timing.race import Latency, LatencyRow, Ratio, Skipped, Spread

EVIL = "<script>alert('x')</script>.$\\frac$[bold]"


def layer(name: str, macs: tuple[int, int], error: float | None = 0.25) -> LayerRow:
    return LayerRow(
        name=name,
        kind="convolution",
        kernel=(128, 64, 3, 3),
        action="separate" if error is not None else "keep",
        order="dw-pw" if error is not None else None,
        rank=2 if error is not None else None,
        reason="asked for" if error is not None else "first layer & <last>",
        macs_before=macs[0],
        macs_after=macs[1],
        params_before=73_728,
        params_after=8_768,
        error=error,
        heldout_error=None,
        measured_error=None if error is None else 1.1 * error,
        curve=() if error is None else (RankPoint("dw-pw", 1, macs[1], 0.5, 0.1, True),),
    )


def spread(median: float) -> Spread:
    return Spread(0.9 * median, 0.95 * median, median, 1.1 * median, 96)


def changes() -> Changes:
    tally = ChangeTally(("cat", EVIL))
    pictures = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).float()
    scores = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
    tally.add(pictures, torch.tensor([0, 1]), scores, scores.flip(1))
    return tally.result()


BOARD = BoardLatency(
    board="10.0.0.2:9090",
    target="raspberry-pi-4",
    machine=Machine("Board <4>, Cortex-A72", 4, ("asimd",), "Linux 6.6 aarch64", "ondemand"),
    emulated=False,
    rows=(
        LatencyRow("TVM, raspberry-pi-4", 1, spread(0.04), spread(0.02), Ratio(2, 1.9, 2.1), None),
        LatencyRow("TVM, raspberry-pi-4", 4, spread(0.013), spread(0.0051), Ratio(2.5, 2, 3), None),
    ),
    batch=1,
    repeats=3,
    method="In turns.",
)


def report(**changed: Any) -> Report:
    """A report with every part in it, made by hand: nothing measured, so nothing that varies."""
    made = Report(
        network="Net<b>",
        created="2026-01-02T03:04:05+00:00",
        machine=Machine("A CPU", 2, ("avx2", "fma"), "Linux 6.1 x86_64", "performance"),
        versions={"python": "3.11.7", "torch": "2.13.0"},
        seed=0,
        inputs=((1, 3, 224, 224),),
        method="svd",
        before=Totals(20_000_000, 700_000, 2_800_000, "TorchScript file"),
        after=Totals(4_000_000, 100_000, 420_000, "TorchScript file"),
        layers=(
            layer("stem", (2_000_000, 2_000_000), None),
            layer(EVIL, (12_000_000, 1_500_000)),
            layer("a.very.long.name." + "block." * 12 + "conv", (6_000_000, 500_000), 0.5),
        ),
        latency=Latency(
            rows=(
                LatencyRow("torch", 1, spread(0.012), spread(0.006), Ratio(2, 1.9, 2.2), None),
                LatencyRow("TVM", 1, None, spread(0.001), None, Ratio(8.0, 7.5, 8.5)),
            ),
            skipped=(Skipped("onnxruntime", "onnx not installed: pip install 'sepify[onnx]'"),),
            batch=1,
            rounds=24,
            repeats=4,
            restless=0,
            others=0.25,
            method="In turns.",
        ),
        accuracy=Accuracy(
            images=10_000,
            before=Interval(0.9276, 0.9224, 0.9325),
            after=Interval(0.918, 0.9125, 0.9232),
            difference=Interval(-0.0096, -0.0131, -0.0061),
            lost=210,
            gained=114,
            p=1e-7,
        ),
        fidelity=Fidelity(10_000, Interval(0.96, 0.956, 0.964), 0.9912, 21.7, False),
        board=BOARD,
        notes=("Beware of <i>dogs</i>.",),
        changes=changes(),
        variants=(Variant("uniform rank 2", 6_000_000, Interval(0.92, 0.915, 0.925)),),
        prospects=(Prospect(3e6, 0.2), Prospect(9e6, 0.0)),
        prospect_unit="kl",
        origin=Origin(
            f"sepify report '{EVIL}' small.pt",
            (InputFile("the original", EVIL, 3, "0" * 64),),
            {"format": "sepify-plan", "why": EVIL},
        ),
    )
    return replace(made, **changed)


VARIANTS = {
    "whole": report(),
    "no labels": report(accuracy=None, changes=None),
    "a metric": report(
        accuracy=None,
        changes=None,
        metrics=(
            MetricResult(
                "dice<b>",
                60,
                Interval(0.8, 0.7, 0.9),
                Interval(0.7, 0.6, 0.8),
                Interval(-0.1, -0.2, 0.0),
            ),
        ),
    ),
    "an emulated board": report(
        board=replace(BOARD, emulated=True, rows=(LatencyRow(EVIL, 4, None, None, None, None),))
    ),
    "bare": report(
        accuracy=None, changes=None, variants=(), prospects=(), prospect_unit="", origin=Origin()
    ),
    "no classes": report(accuracy=None, changes=None, fidelity=Fidelity(1, None, 1.0, None, True)),
    "nothing timed": report(latency=None, board=None, notes=()),
    "nothing to do": report(
        layers=(), before=Totals(0, 0, 9, "file"), after=Totals(0, 0, 9, "file")
    ),
}
each_variant = pytest.mark.parametrize("made", VARIANTS.values(), ids=VARIANTS)


class Page(HTMLParser):
    """Tags opened and closed in order, every attribute, and the text."""

    VOID = ("meta", "br", "link", "img", "hr", "input")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(made: Report, folder: Path) -> str:
    made.save(folder / "page.html")
    return (folder / "page.html").read_text("utf-8")


def load_report_of(made: Report, folder: Path) -> Report:
    made.save(folder / "again.json")
    return load_report(folder / "again.json")
