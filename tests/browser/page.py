"""A report as large as they get: 300 layers, every part in it, nothing measured."""

from __future__ import annotations

import torch

from sepify.judging.changes import Changes, ChangeTally
from sepify.judging.fidelity import Fidelity
from sepify.judging.statistics import Accuracy, Interval
from sepify.measuring import Report
from sepify.process.machine import Machine
from sepify.report.model import InputFile, LayerRow, Origin, Prospect, RankPoint, Totals, Variant
from sepify.timing.race import Latency, LatencyRow, Ratio, Skipped, Spread

LAYERS = 300
NAMES = ("aeroplane", "bird", "car", "cat", "deer", "dog", "frog", "horse", "ship", "lorry")


def layer(number: int) -> LayerRow:
    macs = 1_000 * (1 + (number * 7919) % 9_973)
    separated = number % 3 > 0
    curve = tuple(
        RankPoint(order, rank, macs * rank // 9, 0.7 / rank, 0.2 / rank**2, rank < 3)
        for order in ("dw-pw", "pw-dw")
        for rank in range(1, 9)
    )
    return LayerRow(
        name=f"stage{number // 30}.block{number // 3}.conv{number}",
        kind="convolution",
        kernel=(128, 64, 3, 3),
        action="separate" if separated else "keep",
        order="dw-pw" if separated else None,
        rank=1 + number % 2 if separated else None,
        reason="chosen for the budget" if separated else "<script>first()</script> & last",
        macs_before=macs,
        macs_after=macs // 8 if separated else macs,
        params_before=73_728,
        params_after=8_768,
        error=0.3 / (1 + number % 17) if separated else None,
        heldout_error=0.33 / (1 + number % 17) if separated else None,
        measured_error=0.35 / (1 + number % 17) if separated else None,
        seconds_before=macs * 1e-9,
        seconds_after=macs * 2e-10,
        curve=curve if separated else (),
    )


def changes() -> Changes:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2_000, 10, generator=generator)
    labels = scores.argmax(1)
    pictures = torch.rand(2_000, 3, 32, 32, generator=generator)
    tally = ChangeTally(NAMES)
    tally.add(
        pictures, labels, 3 * scores, 3 * scores + torch.randn(2_000, 10, generator=generator)
    )
    return tally.result()


def spread(median: float) -> Spread:
    return Spread(0.9 * median, 0.95 * median, median, 1.1 * median, 96)


def big_report() -> Report:
    """The same every time."""
    layers = tuple(layer(number) for number in range(LAYERS))
    before = sum(row.macs_before for row in layers)
    after = sum(row.macs_after for row in layers)
    return Report(
        network="BigNet",
        created="2026-01-02T03:04:05+00:00",
        machine=Machine("A CPU", 2, ("avx2", "fma"), "Linux 6.1 x86_64", "performance"),
        versions={"python": "3.11.7", "torch": "2.13.0"},
        seed=0,
        inputs=((1, 3, 224, 224),),
        method="least-squares",
        before=Totals(before, 25_557_032, 102_000_000, "TorchScript file"),
        after=Totals(after, 4_100_000, 16_500_000, "TorchScript file"),
        layers=layers,
        latency=Latency(
            rows=tuple(
                LatencyRow(
                    runtime,
                    threads,
                    spread(0.030 * slow / threads),
                    spread(0.010 * slow / threads),
                    Ratio(3.0, 2.9, 3.1),
                    Ratio(3.0 / slow, 2.9 / slow, 3.1 / slow),
                )
                for runtime, slow in (("torch", 2.0), ("onnxruntime", 1.1), ("TVM", 1.0))
                for threads in (1, 2)
            ),
            skipped=(Skipped("another", "not installed"),),
            batch=1,
            rounds=24,
            repeats=4,
            restless=0,
            others=0.02,
            method="In turns.",
        ),
        accuracy=Accuracy(
            images=10_000,
            before=Interval(0.8103, 0.8025, 0.8179),
            after=Interval(0.7671, 0.7587, 0.7753),
            difference=Interval(-0.0432, -0.05, -0.0365),
            lost=700,
            gained=268,
            p=1e-40,
        ),
        fidelity=Fidelity(10_000, Interval(0.86, 0.853, 0.867), 0.95, 11.7, False),
        notes=("A note.",),
        changes=changes(),
        variants=tuple(
            Variant(
                f"uniform rank {rank}", int(0.6 * after * rank), Interval(v, v - 0.008, v + 0.008)
            )
            for rank, v in ((1, 0.69), (2, 0.765), (3, 0.788))
        ),
        prospects=tuple(Prospect(after * (1 + n / 4), 0.3 / 2**n) for n in range(12)),
        prospect_unit="kl",
        origin=Origin(
            "sepify report big.pt small.pt --data test.npz -o report.html",
            (InputFile("the original", "big.pt", 102_000_000, "0" * 64),),
            {"format": "sepify-plan", "version": 1, "convolutions": []},
        ),
    )
