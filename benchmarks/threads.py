"""What two threads are worth beside other processes, against one thread and other pools.

Contenders take turns, a process each, in a new random order each round: one thread; two on our
pool; two on TVM's own, as it is and with threads that sleep at once; onnxruntime on one and two.
Beside nothing, beside a process that keeps one core busy, and (`crowd`) in a process whose
onnxruntime session runs in between. Prints least, median and 95th percentile in ms, and the median
over that of one thread.

    python benchmarks/threads.py --rounds 5 --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import sepify
from sepify.storage import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from device.networks import demo, resnet18

OUT = Path(__file__).parent / "out" / "threads.json"
CONTENDERS = {  # who, threads, TVM's looks for work
    "one thread": ("ours", 1, None),
    "ours": ("ours", 2, None),
    "TVM's pool": ("tvm", 2, None),
    "TVM's, sleeping": ("tvm", 2, "0"),
    "onnxruntime, one": ("onnxruntime", 1, None),
    "onnxruntime": ("onnxruntime", 2, None),
}
PLACES = ("free", "busy", "crowd")


def resnet() -> tuple[torch.nn.Module, torch.Tensor]:
    """ResNet-18 at rank 1, its stem kept, at 224x224."""
    model = sepify.convert(resnet18().eval(), keep=("0",), method="svd")
    return model, torch.randn(1, 3, 224, 224)


NETWORKS = {"demo": demo, "ResNet-18": resnet}


def prepare(name: str, folder: Path) -> None:
    """Compile and export a network into `folder`."""
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    model.eval()
    sepify.compile(model, x).save(folder / "network")
    torch.onnx.export(torch.jit.trace(model, x), (x,), folder / "m.onnx", dynamo=False)
    torch.save(x, folder / "x.pt")


def onnxruntime_call(folder: Path, x: torch.Tensor, threads: int) -> Callable[[], object]:
    """One inference by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / "m.onnx"), options)
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


def time_here(who: str, folder: Path, threads: int, seconds: float, crowd: bool) -> list[float]:
    """Milliseconds of each inference for so long, in this process."""
    torch.set_num_threads(1)
    x = torch.load(folder / "x.pt")
    call: Callable[[], object]
    if who == "onnxruntime":
        call = onnxruntime_call(folder, x, threads)
    else:
        from sepify.compiling import thread_pool

        if who == "tvm":  # as it is where there is no C compiler
            thread_pool._carried_by = lambda _library: None  # type: ignore[assignment]
            thread_pool._compiled = lambda: None  # type: ignore[assignment]
        fast = sepify.load_compiled(folder / "network")
        fast.set_threads(threads)
        call = partial(fast, x)
    other = onnxruntime_call(folder, x, 2) if crowd else int
    times: list[float] = []
    for _ in range(20):
        call()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        other()
        began = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - began))
    return times


def run_once(name: str, place: str, folder: Path, seconds: float) -> list[float]:
    """The same in a process of its own, beside what `place` says."""
    who, threads, looks = CONTENDERS[name]
    environment = {**os.environ, "TVM_NUM_THREADS": "2"}
    # where ours is not to be had TVM's is told to sleep at once: its own number here
    environment["TVM_THREAD_POOL_SPIN_COUNT"] = looks or "300000"
    crowd = "crowd" if place == "crowd" else ""
    command = [sys.executable, __file__, "--one", who, str(folder), str(threads), str(seconds)]
    busy = None
    if place == "busy":
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        done = subprocess.run(
            [*command, crowd], env=environment, capture_output=True, text=True, check=True
        )
    finally:
        if busy is not None:
            busy.kill()
            busy.wait()
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


def summarise(runs: list[list[float]]) -> dict[str, float]:
    """Least of all, and the medians over the rounds of median and 95th percentile."""
    ordered = [sorted(times) for times in runs]
    return {
        "least": min(times[0] for times in ordered),
        "median": statistics.median(times[len(times) // 2] for times in ordered),
        "p95": statistics.median(times[int(0.95 * len(times))] for times in ordered),
    }


def main() -> None:
    """Print a table, and write it."""
    if sys.argv[1:2] == ["--one"]:
        who, folder, threads, seconds, crowd = sys.argv[2:]
        print(json.dumps(time_here(who, Path(folder), int(threads), float(seconds), bool(crowd))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--places", nargs="+", default=list(PLACES))
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    asked = parser.parse_args()
    rows = []
    for network in asked.networks:
        with tempfile.TemporaryDirectory() as folder:
            prepare(network, Path(folder))
            for place in asked.places:
                runs: dict[str, list[list[float]]] = {name: [] for name in asked.contenders}
                for _ in range(asked.rounds):
                    for name in random.sample(asked.contenders, len(asked.contenders)):
                        runs[name].append(run_once(name, place, Path(folder), asked.seconds))
                table = {name: summarise(times) for name, times in runs.items()}
                base = table.get("one thread", {"median": float("nan")})["median"]
                for name, figures in table.items():
                    row = {"network": network, "beside": place, "contender": name, **figures}
                    row["over_one_thread"] = figures["median"] / base
                    rows.append(row)
                    if not asked.json:
                        numbers = [f"{figures[key]:.3f}" for key in ("least", "median", "p95")]
                        ratio = f"{row['over_one_thread']:.2f}"
                        print(network, place, name, *numbers, ratio, sep="\t", flush=True)
    value = {"load": os.getloadavg(), "rows": rows}
    OUT.parent.mkdir(exist_ok=True)
    write_json(OUT, value)
    if asked.json:
        print(json.dumps(value))


if __name__ == "__main__":
    main()
