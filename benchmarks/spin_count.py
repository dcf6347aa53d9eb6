"""What it costs that TVM's idle threads sleep after fewer looks for work.

Runtime bundles of the demo network (rank 1) and of a small ResNet for this CPU; their `run --time`
is started with each TVM_THREAD_POOL_SPIN_COUNT in turn, in a new random order each round. A machine
that is not idle shows the other side: seconds of the whole process.

    python benchmarks/spin_count.py --rounds 30
"""

from __future__ import annotations

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from sepify.compiling import make_bundle
from sepify.storage import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from device.networks import demo, separable_resnet18

SETTINGS = ("300000", "10000", "1000")  # the first is TVM's own
NETWORKS = {"demo": demo, "sepResNet-18 at 64": separable_resnet18}
OUT = Path(__file__).parent / "out" / "spin_count.json"


def run_once(bundle: Path, setting: str, threads: int, runs: int) -> tuple[float, float, float]:
    """Least and median ms of the inferences of a process, and its own seconds."""
    environment = {**os.environ, "TVM_THREAD_POOL_SPIN_COUNT": setting}
    began = time.monotonic()
    command = [str(bundle / "run"), "--threads", str(threads), "--time", str(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    least, median = re.findall(r"(\d+\.\d+) ms", done.stdout)
    return float(least), float(median), time.monotonic() - began


def main() -> None:
    """Print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for number, (name, make) in enumerate(NETWORKS.items()):
            torch.manual_seed(0)
            model, x = make()
            bundle = make_bundle(model.eval(), x, "native", Path(place) / str(number)).path
            times: dict[str, list[tuple[float, float, float]]] = {
                setting: [] for setting in asked.settings
            }
            for _ in range(asked.rounds):
                for setting in random.sample(asked.settings, len(asked.settings)):
                    times[setting].append(run_once(bundle, setting, asked.threads, asked.runs))
            for setting, taken in times.items():
                leasts, medians, seconds = (sorted(column) for column in zip(*taken, strict=True))
                row = {
                    "network": name,
                    "spins": setting,
                    "least": leasts[0],
                    "median_of_leasts": statistics.median(leasts),
                    "median_of_medians": statistics.median(medians),
                    "process_median": statistics.median(seconds),
                    "process_most": seconds[-1],
                }
                rows.append(row)
                print(*row.values(), sep="\t", flush=True)
    OUT.parent.mkdir(exist_ok=True)
    write_json(OUT, {"threads": asked.threads, "rows": rows})


if __name__ == "__main__":
    main()
