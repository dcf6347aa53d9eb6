"""What two threads are worth beside other processes, against one thread and other pools.

All contenders run in one process and take turns, a few inferences each, in a new random order every
round, so that a clock that changes is the same for all: one thread; two on our pool; two on TVM's
own; onnxruntime on one and two. Beside nothing, beside a process that keeps one core busy, and
(`crowd`) with an inference on onnxruntime's two threads before each. Prints least, median, mean and
95th percentile in ms, and the median over that of one thread.

    python benchmarks/threads.py --seconds 20
    TVM_THREAD_POOL_SPIN_COUNT=0 python benchmarks/threads.py    # TVM's idle threads sleep at once
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

import sepify
from sepify.compiling import CompiledModel, thread_pool
from sepify.storage import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from device.networks import demo, resnet18

OUT = Path(__file__).parent / "out" / "threads.json"
PLACES = ("free", "busy", "crowd")
WARM = 3  # inferences of a turn that are not counted: sleeping threads wake, caches fill
REST = 0.004  # seconds between turns, for the threads of others to fall asleep

Call = Callable[[], object]
Contender = tuple[Call, Call]  # before a turn, and one inference


def resnet() -> tuple[torch.nn.Module, torch.Tensor]:
    """ResNet-18 at rank 1, its stem kept, at 224x224."""
    model = sepify.convert(resnet18().eval(), keep=("0",), solver=sepify.Solver(method="svd"))
    return model, torch.randn(1, 3, 224, 224)


NETWORKS = {"demo": (demo, 200), "ResNet-18": (resnet, 10)}  # and the inferences of a turn


def on_tvms_pool(folder: Path) -> CompiledModel:
    """As it is where there is no C compiler."""
    ours = thread_pool._carried_by, thread_pool._compiled
    thread_pool._carried_by = lambda _library: None
    thread_pool._compiled = lambda: None
    thread_pool.use_threads(2)  # of what is loaded next, whatever the last turn asked for
    try:
        return sepify.load_compiled(folder)
    finally:
        thread_pool._carried_by, thread_pool._compiled = ours
        thread_pool._name = ""  # the next network that is loaded looks for a pool again


def onnxruntime_call(model: Path, x: torch.Tensor, threads: int) -> Call:
    """One inference by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options)
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


def prepare(name: str, folder: Path) -> dict[str, Contender]:
    """Compile and export a network into `folder`, and load it for every contender."""
    torch.manual_seed(0)
    model, x = NETWORKS[name][0]()
    model.eval()
    onnx, network = folder / "m.onnx", folder / "network"
    torch.onnx.export(torch.jit.trace(model, x), (x,), onnx, dynamo=False)
    code = "import sys, torch, sepify; sepify.compile(*torch.load(sys.argv[1], weights_only=False))"
    torch.save((model, x), folder / "model")  # compiled elsewhere: no pool is chosen here yet
    subprocess.run(
        [sys.executable, "-c", f"{code}.save(sys.argv[2])", folder / "model", network], check=True
    )
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "300000")  # TVM's own number
    # a copy: one library is loaded once, and has one pool
    tvms = on_tvms_pool(Path(shutil.copytree(network, folder / "on TVM's")))
    fast = sepify.load_compiled(network)
    return {
        "one thread": (partial(fast.set_threads, 1), partial(fast, x)),
        "ours": (partial(fast.set_threads, 2), partial(fast, x)),
        "TVM's pool": (int, partial(tvms, x)),
        "onnxruntime, one": (int, onnxruntime_call(onnx, x, 1)),
        "onnxruntime": (int, onnxruntime_call(onnx, x, 2)),
    }


@contextmanager
def beside(place: str) -> Iterator[None]:
    """A process that keeps one core busy, if that is the place."""
    if place != "busy":
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            yield
        finally:
            busy.kill()


def take_turns(
    contenders: dict[str, Contender], turn: int, seconds: float, other: Call
) -> dict[str, list[float]]:
    """Milliseconds of each inference, sorted, by contender; `other` runs before each."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for name in random.sample(list(contenders), len(contenders)):
            begin, call = contenders[name]
            begin()
            time.sleep(REST)
            for number in range(WARM + turn):
                other()
                began = time.perf_counter()
                call()
                if number >= WARM:
                    times[name].append(1e3 * (time.perf_counter() - began))
    return {name: sorted(taken) for name, taken in times.items()}


def main() -> None:
    """Print a table, and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="for each network and place")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--places", nargs="+", default=list(PLACES))
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for network in asked.networks:
        with tempfile.TemporaryDirectory() as folder:
            contenders = prepare(network, Path(folder))
            for place in asked.places:
                other = contenders["onnxruntime"][1] if place == "crowd" else int
                with beside(place):
                    taken = take_turns(contenders, NETWORKS[network][1], asked.seconds, other)
                base = statistics.median(taken["one thread"])
                for name, times in taken.items():
                    median = statistics.median(times)
                    row = {
                        "network": network,
                        "beside": place,
                        "contender": name,
                        "least": times[0],
                        "median": median,
                        "mean": statistics.fmean(times),
                        "p95": times[int(0.95 * len(times))],
                        "over_one_thread": median / base,
                    }
                    rows.append(row)
                    if not asked.json:
                        cells = [x if isinstance(x, str) else f"{x:.3f}" for x in row.values()]
                        print(*cells, sep="\t", flush=True)
    value = {"load": os.getloadavg(), "rows": rows}
    OUT.parent.mkdir(exist_ok=True)
    write_json(OUT, value)
    if asked.json:
        print(json.dumps(value))


if __name__ == "__main__":
    main()
