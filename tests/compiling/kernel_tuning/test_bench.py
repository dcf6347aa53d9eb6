"""Candidates that fail, crash and hang are survived; tuning goes on where it was interrupted."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from sepify.compiling.budget import Budget
from sepify.compiling.kernel_tuning.bench import open_bench
from sepify.compiling.kernel_tuning.records import Record, Records
from sepify.compiling.kernel_tuning.search import search
from sepify.compiling.kernel_tuning.tune import tune_kernels
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.separable import SEPARABLE
from sepify.compiling.kernels.shapes import Conv, Window
from sepify.errors import CompileError

_MACHINE = Machine(16, 32)
_DENSE = Workload(DENSE, Conv(1, 64, 28, 28, 64, Window((3, 3), padding=(1,) * 4), 28, 28))
_POINT = Workload(DENSE, Conv(1, 64, 28, 28, 128, Window((1, 1)), 28, 28))

# speaks the worker's language; what a candidate does depends on the pixels of its tile
_FAKE = """
import json, os, signal, sys, time
sys.stdin.readline()
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    knobs = json.loads(line)["knobs"]
    if knobs["unroll"] == 8: os.kill(os.getpid(), signal.SIGILL)
    if knobs["unroll"] == 4: time.sleep(60)
    if knobs["pixels"] == 3: print(json.dumps({"error": "LLVM has no such register"}), flush=True)
    else: print(json.dumps({"seconds": 1e-3, "relative": 1.0 + knobs["rows"] / 100}), flush=True)
"""


def fake(script: str = _FAKE):
    return open_bench({"kind": "llvm"}, _MACHINE, [sys.executable, "-c", script], limit=1.0)


def test_a_failure_a_crash_and_a_hang_are_told_apart_and_the_next_candidate_is_timed():
    with fake() as bench:
        assert bench.measure(_DENSE, Knobs(3, 1, 1, 1)).error == "LLVM has no such register"
        assert bench.measure(_DENSE, Knobs(4, 1, 1, 1, unroll=8)).error == "crashed: SIGILL"
        assert bench.measure(_DENSE, Knobs(4, 1, 1, 1, unroll=4)).error == "took more than 1 s"
        assert bench.measure(_DENSE, Knobs(4, 1, 1, 1)).relative == 1.01


def test_a_worker_that_cannot_start_is_an_error():
    with fake("import sys; sys.exit(3)") as bench, pytest.raises(CompileError, match="exit code 3"):
        bench.measure(_DENSE, Knobs(4, 1, 1, 1))


def tune(folder, trials, bench, progress=lambda *_: None):
    records = Records(folder, {"kind": "llvm"}, {"tvm": "1"})
    workloads = Counter({_DENSE: 3, _POINT: 1})
    return tune_kernels(workloads, _MACHINE, Budget(trials=trials), records, bench, progress)


def test_failures_are_counted_and_an_interrupted_run_goes_on(tmp_path):
    lines = []
    with fake() as bench:
        first = tune(tmp_path, 12, bench, lambda *line: lines.append(line))
        assert first.trials == 12
        rest = tune(tmp_path, 1000, bench)  # until nothing is left
        again = tune(tmp_path, 1000, bench)
    assert rest.failed > 0
    assert rest.relative < 1.02
    assert again.trials == 0
    assert again.relative == rest.relative
    what, done, total = lines[-1]
    assert what.startswith("tuning 2 kernels: 11 trials")
    assert (done, total) == (11, 12)
    with_fresh = tmp_path / "fresh"
    with fake() as bench:
        at_once = tune(with_fresh, 1000, bench)
    assert at_once.trials == first.trials + rest.trials


class SlowBench:
    """Two slots; answers as `_FAKE`, what was handed in last first."""

    slots, words = 2, " on 2 boards"

    def __init__(self):
        self.held = []
        self.most = 0

    def submit(self, workload, knobs):
        self.held.append((workload, knobs))
        self.most = max(self.most, len(self.held))

    def collect(self):
        workload, knobs = self.held.pop()
        relative = 1.0 + knobs.rows / 100 - knobs.unroll / 1000
        return workload, Record(knobs, 1e-3, relative)


@pytest.mark.parametrize("workloads", [Counter({_DENSE: 1}), Counter({_DENSE: 3, _POINT: 1})])
def test_two_at_once_find_what_one_after_another_finds(tmp_path, workloads):
    """In whatever order the answers come; one workload alone is enough for both slots."""

    class OneBench(SlowBench):
        slots = 1

    found = []
    for bench in (SlowBench(), OneBench()):
        records = Records(tmp_path / str(bench.slots), {"kind": "llvm"}, {"tvm": "1"})
        made = tune_kernels(workloads, _MACHINE, Budget(trials=999), records, bench, lambda *_: 0)
        assert bench.most == bench.slots
        assert not bench.held
        found.append((made, [records.measured(workload) for workload in workloads]))
    assert found[0] == found[1]


def test_no_more_trials_than_the_budget_whatever_is_at_work(tmp_path):
    lines = []
    bench = SlowBench()
    made = tune(tmp_path, 9, bench, lambda *line: lines.append(line))
    assert made.trials == 9
    assert not bench.held
    assert lines[-1][0].startswith("tuning 2 kernels on 2 boards: 8 trials")


def test_all_candidates_failing_leaves_the_default(tmp_path):
    broken = _FAKE.replace('knobs["pixels"] == 3', "True")
    with fake(broken) as bench:
        result = tune(tmp_path, 1000, bench)
    assert result.failed == result.trials > 0
    assert result.relative == 1.0
    assert Records(tmp_path, {"kind": "llvm"}, {"tvm": "1"}).best(_DENSE) is None


@pytest.mark.parametrize(
    "machine",
    [_MACHINE, Machine(8, 16), Machine(4, 32), Machine(32, 32), Machine(16, 32, max_tasks=1)],
)
@pytest.mark.parametrize("channels", [3, 64, 512])
def test_the_search_ends_and_never_repeats_itself(machine, channels):
    window = Window((3, 3), (2, 2), (1, 1, 1, 1))
    conv = Conv(1, channels, 14, 14, channels, window, 7, 7, channels)
    workload = Workload(SEPARABLE, conv, outputs=256)
    steps = search(workload, machine)
    group = next(steps)
    assert len(group) == 1
    seen = [*group]
    with pytest.raises(StopIteration):
        while True:
            group = steps.send([1.0] * len(group))
            seen += group
    assert seen[0] == workload.default_knobs(machine)
    assert 5 < len(seen) < 60
    names = {workload.kernel(machine, knobs).name for knobs in seen}
    assert len(names) == len(seen)
