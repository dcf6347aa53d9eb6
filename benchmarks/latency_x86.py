"""Latency on this x86 CPU: sepify's compiled networks against onnxruntime, OpenVINO, ncnn and
torch.compile.

    python benchmarks/latency_x86.py --tune 10min              # all; goes on where it stopped
    python benchmarks/latency_x86.py --prepare --database DIR  # compile and export only
    python benchmarks/latency_x86.py --networks resnet18 --threads 1 --fresh

Batch 1, 224x224, float32, seeded random weights. For each network and number of threads one
process in which all contenders take turns, so that whatever else the machine does hits all of them:
judge by the ratios. Sepify runs untuned and, with --tune or a --database, tuned; for this CPU and
for x86-64-v3 (AVX2; the peers use whatever the CPU has). What is exported and compiled is kept in
benchmarks/out/latency_x86/, the results in benchmarks/out/latency_x86.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "out"
WORK = OUT / "latency_x86"
RESULTS = OUT / "latency_x86.json"
TARGETS = ("native", "x86-64-v3")

Run = Callable[[], Any]


def arguments() -> argparse.Namespace:
    """The command line."""
    from latency_networks import NETWORKS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--rounds", type=int, default=60, help="calls of each contender, at most")
    parser.add_argument("--seconds", type=float, default=25.0, help="for a network, at most")
    parser.add_argument("--tune", help="budget for each network and target: 500, 10min, ...")
    parser.add_argument("--database", type=Path, help="folder of tuning records")
    parser.add_argument("--prepare", action="store_true", help="no measurements yet")
    parser.add_argument("--fresh", action="store_true", help="measure again what has been measured")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "THREADS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Prepare, measure each network in a process of its own, print the tables."""
    options = arguments()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options)))
        return
    for name in options.networks:
        prepare(name, options)
    if options.prepare:
        return
    from latency_table import show

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for threads in options.threads:
        for name in options.networks:
            key = f"{name} {threads}"
            if options.fresh or key not in results:
                results[key] = in_a_process(name, threads)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        show(results, options.networks, threads)
    print(f"\nwrote {RESULTS}")


# --- compiling and exporting -------------------------------------------------------------------


def prepare(name: str, options: argparse.Namespace) -> None:
    """Compile for each target, untuned and tuned; export for the peers. What is there is kept."""
    import torch
    from latency_networks import make
    from runtimes import export_ncnn, export_onnx

    import sepify

    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    x = example()
    model = None
    wanted = [(target, False) for target in options.targets]
    if options.tune or options.database:
        wanted += [(target, True) for target in options.targets]
    for target, tuned in wanted:
        bundle = folder / bundle_name(target, tuned)
        if bundle.exists():
            continue
        model = model or make(name)
        empty = WORK / "no-records"  # or the user's own records would be used
        compiled = sepify.compile(
            model,
            x,
            target,
            tune=options.tune if tuned else None,
            database=(options.database or WORK / "records") if tuned else empty,
            progress=progress_to(f"{name}, {target}"),
        )
        compiled.save(bundle)
        print(f"\r\033[K{name}: {compiled.metadata.summary}", file=sys.stderr)
    for export, file in ((export_onnx, folder / "model.onnx"), (export_ncnn, folder)):
        try:
            with torch.no_grad():
                export(model or make(name), x, file)
        except ImportError as error:
            print(f"{error.name} is not installed: left out", file=sys.stderr)


def bundle_name(target: str, tuned: bool) -> str:
    """Of the folder, and of the contender."""
    return f"sepify {'tuned' if tuned else 'untuned'}" + (
        "" if target == "native" else f" {target}"
    )


def example() -> Any:
    """The input image."""
    import torch

    return torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def progress_to(title: str) -> Callable[[str, int, int], None]:
    """One line on stderr, rewritten."""

    def show_line(what: str, done: int, total: int) -> None:
        print(f"\r\033[K{title}: {what} {done}/{total}", end="", file=sys.stderr, flush=True)

    return show_line


# --- measuring ---------------------------------------------------------------------------------


def in_a_process(name: str, threads: int) -> dict[str, Any]:
    """Thread pools take their size when they are made, once in a process."""
    print(f"\r\033[K{name}, {threads} threads", end="", file=sys.stderr, flush=True)
    count = {f"{pool}_NUM_THREADS": str(threads) for pool in ("OMP", "TVM", "MKL")}
    forwarded = [argument for argument in sys.argv[1:] if argument not in ("--fresh", "--prepare")]
    command = [sys.executable, __file__, "--one", name, str(threads), *strip(forwarded)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **count})
    if done.returncode:
        sys.exit(f"\n{name} with {threads} threads failed; what was measured before is kept")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def strip(argv: list[str]) -> list[str]:
    """Without the options that take several values."""
    kept, skipping = [], False
    for argument in argv:
        if argument.startswith("--"):
            skipping = argument in ("--networks", "--threads")
        if not skipping:
            kept.append(argument)
    return kept


def measure(name: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """All contenders in turns: times, facts about the network and the machine."""
    warnings.filterwarnings("ignore")
    import torch
    from fma_peak import fma_peak
    from latency_networks import make
    from runtimes import PEERS
    from torch.utils.flop_counter import FlopCounterMode

    from sepify.compiling import load_compiled

    torch.set_num_threads(threads)
    model, x, folder = make(name), example(), WORK / name
    contenders: dict[str, Run] = {}
    missing: dict[str, str] = {}
    facts: dict[str, Any] = {"peak_gflops": fma_peak(threads), "load": os.getloadavg()[0]}
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            want = model(x)
        for target in options.targets:
            for tuned in (True, False):
                bundle = folder / bundle_name(target, tuned)
                if bundle.exists():
                    started = time.perf_counter()
                    compiled = load_compiled(bundle)
                    contenders[bundle.name] = lambda compiled=compiled: compiled(x)
                    facts[f"{bundle.name}: load s"] = time.perf_counter() - started
                    facts[f"{bundle.name}: compile s"] = compiled.metadata.seconds
                    facts[f"{bundle.name}: peak bytes"] = compiled.metadata.peak_bytes
        for peer, open_peer in PEERS.items():
            try:
                contenders[peer] = open_peer(model, x, threads, folder)
                check(contenders[peer](), want)
            except ImportError as error:
                missing[peer] = f"{error.name} is not installed"
            except Exception as error:  # a runtime that cannot run this network is said, not fatal
                contenders.pop(peer, None)
                missing[peer] = (str(error).strip().splitlines() or [type(error).__name__])[0]
        times = interleave(contenders, options.rounds, options.seconds)
    return {
        "macs": counter.get_total_flops() // 2,
        "contenders": {name: summarise(values) for name, values in times.items()},
        "missing": missing,
        "facts": facts,
    }


def check(have: Any, want: Any) -> None:
    """Raise ValueError if a peer computes something else."""
    import numpy as np

    error = np.abs(np.asarray(have) - want.numpy()).max() / np.abs(want.numpy()).max()
    if not error < 1e-3:
        raise ValueError(f"differs from torch by {error:.1e}")


def interleave(contenders: dict[str, Run], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each call; every round calls each contender twice and times the second: the
    caches were the previous contender's."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    started = time.perf_counter()
    for _ in range(rounds):
        for name, call in contenders.items():
            call()
            before = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - before) * 1e3)
        if time.perf_counter() - started > seconds:
            break
    return times


def summarise(values: list[float]) -> dict[str, float]:
    """Minimum, median, 10th and 90th percentile in ms, and how many calls."""
    ordered = sorted(values)
    tenth = len(ordered) // 10
    return {
        "min": ordered[0],
        "median": statistics.median(ordered),
        "p10": ordered[tenth],
        "p90": ordered[-1 - tenth],
        "calls": len(ordered),
    }


if __name__ == "__main__":
    main()
