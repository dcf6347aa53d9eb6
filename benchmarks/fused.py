"""Layers that share a kernel against the same layers in a kernel each, in turns, on this CPU.

    TVM_NUM_THREADS=2 python benchmarks/fused.py --threads 1 2

For each pair of layers: depthwise and pointwise, pointwise and depthwise (one term, and two that
are summed), an image's convolution and its max pooling. Maps are channels x rows x columns. The
numbers are min / median / quartiles of microseconds, untuned, data in cache where it fits, and the
ratios of minima and of medians: below 1, one kernel is faster.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from image_sets import OUT, SEED
from rich.console import Console
from rich.table import Table

from sepify.compiling import thread_pool, tvm_api
from sepify.compiling.kernel_tuning.sample import sample
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.depthwise import DEPTHWISE
from sepify.compiling.kernels.grouped import GROUPED
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.pooled import POOLED
from sepify.compiling.kernels.pooling import max_pool_kernel
from sepify.compiling.kernels.pw_dw import PW_DW
from sepify.compiling.kernels.separable import SEPARABLE
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.source import Kernel
from sepify.compiling.targets import find_target
from sepify.storage import write_json

RESULTS_FILE = OUT / "fused.json"
RELU = Epilogue(clip=(0.0, float("inf")))
MAPS = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, side: ResNet-18's
CALLS = 4  # in a row, of which the mean is taken

Call = Callable[[], None]


@dataclass(frozen=True)
class Pair:
    """Two layers: as one workload, and as one each; `None` is max pooling, which is no workload."""

    name: str
    one: Workload
    two: tuple[Workload, Workload | None]


def pairs() -> list[Pair]:
    """The pairs that are measured."""
    return [
        *(pair for size in MAPS for pair in (_dw_pw(*size, 1), _dw_pw(*size, 2))),
        *(pair for size in MAPS for pair in (_pw_dw(*size, 1), _pw_dw(*size, 2))),
        _pooled("ResNet's stem", 7, 2),
        _pooled("3x3, stride 1", 3, 1),
    ]


def _point(channels: int, side: int, outputs: int) -> Conv:
    return Conv(1, channels, side, side, outputs, Window((1, 1)), side, side)


def _filters(channels: int, side: int, outputs: int) -> Conv:
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    return Conv(1, channels, side, side, outputs, window, side, side, min(channels, outputs))


def _dw_pw(channels: int, side: int, rank: int) -> Pair:
    first = _filters(channels, side, rank * channels)
    alone = Workload(DEPTHWISE if rank == 1 else GROUPED, first)
    # a separable workload says of its depthwise part only how many inputs it has
    conv = _filters(channels, side, channels)
    one = Workload(SEPARABLE, conv, RELU, rank=rank, outputs=channels)
    point = Workload(DENSE, _point(rank * channels, side, channels), RELU)
    return Pair(f"dw-pw, rank {rank}, {channels}x{side}x{side}", one, (alone, point))


def _pw_dw(channels: int, side: int, rank: int) -> Pair:
    first, second = (
        _point(channels, side, rank * channels),
        _filters(rank * channels, side, channels),
    )
    alone = Workload(DEPTHWISE if rank == 1 else GROUPED, second, RELU)
    one = Workload(PW_DW, first, RELU, then=second)
    name = f"pw-dw, rank {rank}, {channels}x{side}x{side}"
    return Pair(name, one, (Workload(DENSE, first), alone))


def _pooled(name: str, kernel: int, stride: int) -> Pair:
    edge, side = (kernel // 2,) * 4, 224 // stride
    window = Window((kernel, kernel), (stride, stride), edge)
    conv = Conv(1, 3, 224, 224, 64, window, side, side)
    half = side // 2
    pool = Conv(1, 64, side, side, 64, Window((3, 3), (2, 2), (1, 1, 1, 1)), half, half, 64)
    alone = Workload(DENSE, conv, RELU, blocked=False)
    one = Workload(POOLED, conv, RELU, blocked=False, then=pool)
    return Pair(f"pooled, {name}", one, (alone, None))


def prepare(pair: Pair, machine: Machine, target: Any) -> tuple[Call, Call]:
    """The one kernel, and the two, the second reading what the first has written."""
    one, _ = prepare_kernel(pair.one, machine, target)
    first, between = prepare_kernel(pair.two[0], machine, target)
    second = pair.two[1]
    if second is not None:
        last, _ = prepare_kernel(second, machine, target, between)
    else:
        assert pair.one.then is not None
        last, _ = _call(max_pool_kernel(pair.one.then, machine), [between], target)

    def both() -> None:
        first()
        last()

    return one, both


def prepare_kernel(
    workload: Workload, machine: Machine, target: Any, source: Any = None
) -> tuple[Call, Any]:
    """The kernel, ready to read `source` or an input of its own, and its output."""
    arguments, _ = sample(workload, machine)
    tensors = [tvm_api.tensor(array) for array in arguments]
    if source is not None:
        tensors[0] = source
    return _call(workload.kernel(machine), tensors, target)


def _call(kernel: Kernel, tensors: list[Any], target: Any) -> tuple[Call, Any]:
    function = tvm_api.build_kernel(kernel, target)
    output = tvm_api.tensor(np.zeros(kernel.output.shape, np.float32))
    return lambda: function(*tensors, output), output


def race(calls: tuple[Call, ...], rounds: int) -> list[list[float]]:
    """Microseconds of each, every round in a new order."""
    order = random.Random(SEED)
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for index in order.sample(range(len(calls)), len(calls)):
            calls[index]()
            began = time.perf_counter()
            for _ in range(CALLS):
                calls[index]()
            times[index].append(1e6 * (time.perf_counter() - began) / CALLS)
    return times


def options(page: str | None) -> tuple[argparse.Namespace, Machine, Any]:
    """What was asked for at the shell, the machine of the target and its description; threads are
    ours from here on."""
    parser = argparse.ArgumentParser(description=(page or "").split("\n")[0])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--target", default="native", help="native, x86-64-v3 and the like")
    parser.add_argument("--rounds", type=int, default=100)
    asked = parser.parse_args()
    preset = find_target(asked.target)
    assert preset.description is not None
    assert preset.machine is not None
    thread_pool.install(None)
    return asked, preset.machine, preset.description


def use_threads(threads: int) -> None:
    """Run on so many threads from here on. Raises SystemExit where the pool has fewer."""
    if thread_pool.use_threads(threads) != threads:
        raise SystemExit(f"{threads} threads: set TVM_NUM_THREADS to that or more")


def main() -> None:
    """Print the table, and write it."""
    asked, machine, description = options(__doc__)
    target = tvm_api.make_target(description)
    table = Table("layers", "threads", "one kernel, us", "two", "min", "median")
    rows = []
    for pair in pairs():
        calls = prepare(pair, machine, target)
        for threads in asked.threads:
            use_threads(threads)
            one, two = race(calls, asked.rounds)
            ratios = min(one) / min(two), statistics.median(one) / statistics.median(two)
            numbers = [f"{ratio:.2f}" for ratio in ratios]
            table.add_row(pair.name, str(threads), spread(one), spread(two), *numbers)
            rows.append({"layers": pair.name, "threads": threads, "one": one, "two": two})
    Console(highlight=False).print(table)
    write_json(RESULTS_FILE, {"target": description, "rows": rows})


def spread(times: list[float]) -> str:
    """Least, median and quartiles."""
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{min(times):.0f} / {middle:.0f} / {low:.0f}-{high:.0f}"


if __name__ == "__main__":
    main()
