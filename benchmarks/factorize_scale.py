"""What solving on data costs: seconds and memory against images and layers, and for ResNet-50.

    OMP_NUM_THREADS=2 python benchmarks/factorize_scale.py

Claims: linear in images and in layers; ResNet-50 at 224 with 256 images at rank 1 in under 120 s
and 4 GiB on 2 cores, without refinement. Random weights, with BatchNorm estimated on the data so
that activations are sane. Each row is a process of its own, for its peak memory; the shares are of
CPU time, so that a busy machine changes them little. Writes benchmarks/out/factorize_scale.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from image_sets import OUT, smooth_noise
from networks import PlainChain, ResNet50
from rich.console import Console
from stages import stage_times
from torch import fx, nn

import sepify
from sepify.graph.batches import calibration_batches
from sepify.passes.reestimate_batchnorm import ReestimateBatchNorm
from sepify.passes.runner import run_passes
from sepify.storage import read_json, write_json

RESULTS_FILE = OUT / "factorize_scale.json"
STAGES = ("running both networks", "patches", "moments", "svd start", "solving", "refining")
SHARE_WIDTHS = (5, 5, 6, 3, 5, 6)
CHAIN_SIZE = 56


@dataclass(frozen=True)
class Case:
    """One conversion to time. `network` is "chain" (of `layers` convolutions) or "resnet50"."""

    network: str
    layers: int
    images: int
    refine: bool
    threads: int


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock and of CPU, the share of CPU time of each stage, and memory in MiB:
    the peak, and what data and network held before."""

    case: Case
    wall: float
    cpu: float
    shares: dict[str, float]
    peak: float
    before: float


def main() -> None:
    """Time every case that was asked for; print and store each as it is done."""
    options = _options()
    console = Console(width=80, highlight=False)
    console.print(f"{options.threads} threads; rank 1, stem kept; CPU time by stage in per cent")
    console.print("MiB of memory: peak, and before. Seconds: wall, CPU.")
    console.print(
        "                     wall   CPU  peak before   run patch moment svd solve refine"
    )
    context = multiprocessing.get_context("spawn")
    for case in _cases(options):
        with context.Pool(1) as pool:  # a process for each: peak memory only ever grows
            cost = pool.apply(measure, (case,))
        console.print(_line(cost))
        known = read_json(RESULTS_FILE) if RESULTS_FILE.is_file() else []
        done = [item for item in known if item["case"] != asdict(case)] + [asdict(cost)]
        write_json(RESULTS_FILE, done)


def measure(case: Case) -> Cost:
    """Run one conversion and time it."""
    torch.set_num_threads(case.threads)
    network, images, stem = _prepared(case)
    before = _peak()
    with stage_times() as spent:
        wall, cpu = time.perf_counter(), time.process_time()
        sepify.convert(
            network,
            calibration=images,
            rank=1,
            keep=(stem,),
            solver=sepify.Solver(refine=case.refine, holdout=0),
        )
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    shares = {stage: spent[stage] / cpu for stage in STAGES}
    return Cost(case, wall, cpu, shares, _peak(), before)


def _prepared(case: Case) -> tuple[nn.Module, torch.Tensor, str]:
    torch.manual_seed(0)
    if case.network == "resnet50":
        network: nn.Module = ResNet50()
        images, stem = smooth_noise(case.images, 224), "conv1"
    else:
        network = PlainChain(case.layers)
        images, stem = smooth_noise(case.images, CHAIN_SIZE), "stem.0"
    graph = fx.symbolic_trace(network)
    return (
        run_passes(
            graph, [ReestimateBatchNorm(calibration_batches(images[:64]))]
        ).graph_module.eval(),
        images,
        stem,
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def _cases(options: argparse.Namespace) -> Sequence[Case]:
    cases: list[Case] = []
    base = Case("chain", 6, 256, False, options.threads)
    if "images" in options.what:
        cases += [replace(base, images=images) for images in (64, 128, 256, 512)]
    if "layers" in options.what:
        cases += [replace(base, images=128, layers=layers) for layers in (3, 6, 12, 24)]
    if "refine" in options.what:
        cases += [replace(base, images=n, layers=2, refine=True) for n in (64, 256)]
        cases += [replace(base, images=64, layers=4, refine=True)]
    if "resnet50" in options.what:
        cases += [replace(base, network="resnet50", layers=16, images=options.images)]
    if "refined50" in options.what:  # with the refinement that is the default
        wanted = replace(base, network="resnet50", layers=16, images=options.images)
        cases += [replace(wanted, refine=True)]
    return cases


def _line(cost: Cost) -> str:
    case = cost.case
    name = case.network if case.network == "resnet50" else f"chain {case.layers:2}"
    name = f"{name:8} {case.images:3} img {'+' if case.refine else ' '}"
    numbers = f"{cost.wall:6.1f} {cost.cpu:5.1f} {cost.peak:5.0f} {cost.before:6.0f}"
    parts = [f"{100 * cost.shares[s]:{w}.0f}" for s, w in zip(STAGES, SHARE_WIDTHS, strict=True)]
    return " ".join([name, numbers, *parts])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--what", default="images,layers,refine,resnet50", help="or refined50")
    parser.add_argument("--images", type=int, default=256, help="images for ResNet-50")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    options.what = options.what.split(",")
    return options


if __name__ == "__main__":
    main()
