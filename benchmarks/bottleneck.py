"""A bottleneck (1x1 to R channels, depthwise 3x3, 1x1 back) in kernels of its own, by R.

    TVM_NUM_THREADS=2 python benchmarks/bottleneck.py --threads 1 2

It is computed as a pointwise and a separable kernel. For the maps of ResNet-18 and of a CIFAR
ResNet, R is that of the multiply-adds of dw-pw at ranks 1 and 2, and the whole vectors of channels
below and above it; contenders of a map take turns. The numbers are min / median / quartiles of
microseconds, untuned, data in cache where it fits; GFLOP/s of the fastest call, which count the R
channels and not the lanes that fill up their last vector, and their share of the FMA peak; and the
time of a channel over that at the whole vectors below: above 1, the planner should round R.
"""

from __future__ import annotations

import statistics
from typing import Any

from fma_peak import fma_peak
from fused import Call, options, prepare_kernel, race, spread, use_threads
from image_sets import OUT
from rich.console import Console
from rich.table import Table

from sepify.compiling import tvm_api
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.separable import SEPARABLE
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.storage import write_json

RESULTS_FILE = OUT / "bottleneck.json"
RELU = Epilogue(clip=(0.0, float("inf")))
MAPS = ((64, 56), (128, 28), (256, 14), (512, 7), (16, 32), (32, 16), (64, 8))  # channels, side
TAPS = 9


def middle_channels(channels: int, rank: int) -> int:
    """R of a bottleneck that takes no more multiply-adds than dw-pw at `rank`."""
    return rank * channels * (TAPS + channels) // (channels + TAPS + channels)


def sizes(channels: int, lanes: int) -> list[int]:
    """The R that are measured."""
    found = set()
    for rank in (1, 2):
        middle = middle_channels(channels, rank)
        found |= {middle, max(1, middle // lanes) * lanes, -(-middle // lanes) * lanes}
    return sorted(found)


def parts(channels: int, side: int, middle: int) -> tuple[Workload, Workload]:
    """The first 1x1, and the depthwise with the 1x1 after it."""
    first = Conv(1, channels, side, side, middle, Window((1, 1)), side, side)
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    filters = Conv(1, middle, side, side, middle, window, side, side, middle)
    return Workload(DENSE, first), Workload(SEPARABLE, filters, RELU, outputs=channels)


def prepare(workloads: tuple[Workload, Workload], machine: Machine, target: Any) -> Call:
    """Both kernels, the second reading what the first has written."""
    first, between = prepare_kernel(workloads[0], machine, target)
    second, _ = prepare_kernel(workloads[1], machine, target, between)

    def both() -> None:
        first()
        second()

    return both


def main() -> None:
    """Print the table, and write it."""
    asked, machine, description = options(__doc__)
    target = tvm_api.make_target(description)
    peaks = {threads: fma_peak(threads) for threads in asked.threads}
    names = "map", "R", "threads", "us", "GFLOP/s", "of peak", "a channel: min", "median"
    table = Table(*names, title=f"{machine.lanes} lanes, {description}, peak {peaks}")
    rows = []
    for channels, side in MAPS:
        tried = sizes(channels, machine.lanes)
        works = [parts(channels, side, middle) for middle in tried]
        calls = tuple(prepare(work, machine, target) for work in works)
        for threads in asked.threads:
            use_threads(threads)
            times = race(calls, asked.rounds)
            for middle, work, taken in zip(tried, works, times, strict=True):
                rate = 2e-3 * sum(part.macs for part in work) / min(taken)
                whole = tried.index(max(1, middle // machine.lanes) * machine.lanes)
                base, size = times[whole], middle / tried[whole]
                ratios = (
                    min(taken) / min(base) / size,
                    statistics.median(taken) / statistics.median(base) / size,
                )
                peak = peaks[threads]
                share = f"{rate / peak:.2f}" if peak else "-"
                table.add_row(
                    f"{channels}x{side}x{side}",
                    str(middle),
                    str(threads),
                    spread(taken),
                    f"{rate:.1f}",
                    share,
                    *(f"{ratio:.2f}" for ratio in ratios),
                )
                key = {"channels": channels, "side": side, "R": middle, "threads": threads}
                rows.append({**key, "us": taken})
    Console(highlight=False, width=140).print(table)
    write_json(RESULTS_FILE, {"target": description, "peaks": peaks, "rows": rows})


if __name__ == "__main__":
    main()
