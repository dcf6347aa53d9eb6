"""What capture costs beside building the model and running it once, and ResNet-50 converted.

    OMP_NUM_THREADS=1 python benchmarks/capture_cost.py
    OMP_NUM_THREADS=1 python benchmarks/capture_cost.py --only torchvision/resnet50 --rounds 9

The claims: capture takes less than twice the model's construction plus one forward pass; converting
ResNet-50 from its weights alone takes under 3 s. In each round every contender runs once, one after
the other, so that a busy machine slows all alike: construction, a forward pass of two images,
torch.fx's own symbolic_trace where it succeeds, capture with its checks. CPU seconds of one thread:
least, median and spread of the rounds. Beside the ratio stands that of a floor, which is what no
exact capture by torch.fx does without: its trace, a run of the model, a run of the graph. Needs the
packages of the zoo, but for ResNet-50. Writes benchmarks/out/capture_cost.json after each network;
what is in it is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("YOLO_OFFLINE", "true")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from image_sets import OUT
from networks import ResNet50
from rich.console import Console
from rich.table import Table
from zoo.registry import ENTRIES
from zoo.specimen import Specimen

import sepify
from sepify.capture import capture
from sepify.storage import read_json, write_json

RESULTS_FILE = OUT / "capture_cost.json"
# one or two of each source, among them the slowest
NETWORKS = (
    "torchvision/resnet50", "torchvision/densenet121", "torchvision/raft_small",
    "timm/efficientnet_b0", "timm/repvit_m0_9", "timm/mobilevit_xxs", "timm/tiny_vit_5m_224",
    "smp/Unet-mobilenet_v2", "smp/Linknet-mobilenet_v2", "ultralytics/yolov8n",
    "transformers/MobileNetV2ForImageClassification", "transformers/SwinForImageClassification",
)  # fmt: skip
RESNET = "ResNet-50 converted from its weights alone"
FX = "torch.fx trace"
CONTENDERS = ("construction", "forward", FX, "capture")
Seconds = dict[str, list[float]]


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", help="a network of the zoo by name; repeat")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    console = Console(width=150)
    results: dict[str, Seconds] = {}
    if RESULTS_FILE.is_file() and not options.again:
        results = read_json(RESULTS_FILE)
    for name in (RESNET, *(options.only or NETWORKS)):
        if name not in results:
            with console.status(name):
                results[name] = _measured(name, options.rounds)
            write_json(RESULTS_FILE, results)
    console.print(f"{RESNET}, CPU ms: {_told(results[RESNET]['convert'])}")
    console.print(_table(results))


def _measured(name: str, rounds: int) -> Seconds:
    if name == RESNET:
        torch.manual_seed(0)
        resnet = ResNet50().eval()
        return {
            "convert": [
                _seconds(lambda: sepify.convert(resnet, solver=sepify.Solver(method="svd")))
                for _ in range(rounds)
            ]
        }
    specimen = Specimen(ENTRIES[name])
    model, inputs = specimen.model, specimen.inputs
    work: dict[str, Callable[[], object]] = {
        "construction": specimen.entry.build,
        "forward": lambda: specimen.answer(model, inputs),
        FX: lambda: torch.fx.symbolic_trace(traced),
        "capture": lambda: capture(model, inputs),
    }
    seconds: Seconds = {what: [] for what in CONTENDERS}
    for _ in range(rounds + 1):  # the first warms up
        traced = copy.deepcopy(model)  # a trace leaves its marks
        for what, run in work.items():
            try:
                seconds[what].append(_seconds(run))
            except Exception:  # whatever the model's code makes of proxies
                seconds[what].clear()
    return {what: times[1:] for what, times in seconds.items()}


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _table(results: dict[str, Seconds]) -> Table:
    table = Table(title="CPU milliseconds: least / median (spread), and ratios of the least")
    table.add_column("network")
    for what in CONTENDERS:
        table.add_column(what, justify="right")
    table.add_column("capture / (c + f)", justify="right")
    table.add_column("capture / (2c + f)", justify="right")
    table.add_column("floor / (c + f)", justify="right")
    for name, seconds in results.items():
        if "capture" not in seconds:
            continue
        least = {what: min(times) for what, times in seconds.items() if times}
        built, forward = least["construction"], least["forward"]
        cells = [_told(seconds[what]) if seconds[what] else "fails" for what in CONTENDERS]
        floor = f"{(least[FX] + 2 * forward) / (built + forward):.2f}" if FX in least else ""
        ratios = [
            f"{least['capture'] / limit:.2f}" for limit in (built + forward, 2 * built + forward)
        ]
        table.add_row(name, *cells, *ratios, floor)
    return table


def _told(times: list[float]) -> str:
    low, middle, high = min(times), statistics.median(times), max(times)
    return f"{low * 1e3:.1f} / {middle * 1e3:.1f} ({(high - low) * 1e3:.1f})"


if __name__ == "__main__":
    main()
