"""Tunes the kernels of one network within a budget, those that cost most first."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from sepify.compiling.budget import Budget
from sepify.compiling.kernel_tuning.bench import Bench
from sepify.compiling.kernel_tuning.records import Records
from sepify.compiling.kernel_tuning.search import search
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.shapes import Machine
from sepify.compiling.kernels.workload import Workload

Progress = Callable[[str, int, int], None]

_VISIT = 6  # candidates of one workload in a row: its data and default kernel are made once a visit


@dataclass(frozen=True)
class KernelTuning:
    """What tuning did: workloads looked at, new measurements, those that failed, and the time of
    the kernels over that of the default ones, each as often as the network calls it."""

    workloads: int = 0
    trials: int = 0
    failed: int = 0
    relative: float = 1.0


@dataclass
class _Task:
    """A workload on its way through its search."""

    workload: Workload
    uses: int
    machine: Machine
    trials: int = 0
    seconds: float = 0.0  # of the default kernel
    relative: float = 1.0  # of the best candidate
    next: Knobs | None = None

    def __post_init__(self) -> None:
        self._search = search(self.workload, self.machine)
        self.next = next(self._search)

    @property
    def promise(self) -> float:
        """What the next trials may bring: what the kernel costs, less the more was tried."""
        # before the first trial: at a speed that any CPU has
        seconds = self.seconds or self.workload.macs / 10e9
        return self.uses * seconds / (1 + self.trials)

    def advance(self, relative: float | None) -> None:
        """Go on to the next candidate, given what the last one took."""
        if relative is not None:
            self.relative = min(self.relative, relative)
        try:
            self.next = self._search.send(relative)
        except StopIteration:
            self.next = None


@dataclass
class _Tally:
    trials: int = 0
    failed: int = 0
    tasks: list[_Task] = field(default_factory=list)

    @property
    def relative(self) -> float:
        """Time of all kernels over that of the default ones, as far as they were timed."""
        before = sum(task.uses * task.seconds for task in self.tasks)
        after = sum(task.uses * task.seconds * task.relative for task in self.tasks)
        return after / before if before else 1.0

    def text(self) -> str:
        """For the progress line."""
        failed = f" ({self.failed} failed)" if self.failed else ""
        faster = f", {100 * (1 - self.relative):.0f} % less time so far"
        return f"tuning {len(self.tasks)} kernels: {self.trials} trials{failed}{faster}"


def tune_kernels(
    workloads: Counter[Workload],
    machine: Machine,
    budget: Budget,
    records: Records,
    bench: Bench,
    progress: Progress,
) -> KernelTuning:
    """Measure candidates for `workloads` (and how often each is called) until the budget is spent
    or nothing is left to try. Every measurement is in `records` at once: what is there already is
    not measured again, so that an interrupted run goes on where it stopped.

    Raises FileError if the records cannot be written, CompileError if no candidate can be timed.
    """
    started = time.monotonic()
    tally = _Tally()
    for workload, uses in workloads.items():
        tally.tasks.append(_Task(workload, uses, machine))
    for task in tally.tasks:
        _replay(task, records)
    while True:
        open_tasks = [task for task in tally.tasks if task.next is not None]
        if not open_tasks:
            break
        task = max(open_tasks, key=lambda task: task.promise)
        for _ in range(_VISIT):
            elapsed = time.monotonic() - started
            if budget.is_spent(tally.trials, elapsed):
                return _summary(tally)
            progress(tally.text(), *budget.progress(tally.trials, elapsed))
            if task.next is None:
                break
            record = bench.measure(task.workload, task.next)
            records.add(task.workload, record)
            tally.trials += 1
            tally.failed += record.error is not None
            _take(task, record.seconds, record.relative)
            _replay(task, records)
    return _summary(tally)


def _replay(task: _Task, records: Records) -> None:
    """Answer the search from the records, as far as they go."""
    known = records.measured(task.workload)
    while task.next is not None and task.next in known:
        record = known[task.next]
        _take(task, record.seconds, record.relative)


def _take(task: _Task, seconds: float | None, relative: float | None) -> None:
    task.trials += 1
    if seconds is not None and relative:
        task.seconds = task.seconds or seconds / relative
    task.advance(relative)


def _summary(tally: _Tally) -> KernelTuning:
    return KernelTuning(len(tally.tasks), tally.trials, tally.failed, tally.relative)
