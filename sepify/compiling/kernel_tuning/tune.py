"""Tunes the kernels of one network within a budget, those that cost most first."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sepify.compiling.budget import Budget
from sepify.compiling.kernel_tuning.bench import Bench
from sepify.compiling.kernel_tuning.records import Record, Records, gained
from sepify.compiling.kernel_tuning.search import search
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine

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
    working: int = 0  # candidates handed in and not answered
    seconds: float = 0.0  # of the default kernel
    relative: float = 1.0  # of the best candidate
    group: tuple[Knobs, ...] = ()  # that may be timed at the same time; () at the end
    waiting: deque[Knobs] = field(default_factory=deque)  # those of it not handed in yet
    answers: dict[Knobs, float | None] = field(default_factory=dict)  # to it, so far

    def __post_init__(self) -> None:
        self._search = search(self.workload, self.machine)
        self.group = next(self._search)
        self.waiting.extend(self.group)

    @property
    def promise(self) -> float:
        """What the next trials may bring: what the kernel costs, less the more was tried."""
        # before the first trial: at a speed that any CPU has
        seconds = self.seconds or self.workload.macs / 10e9
        return self.uses * seconds / (1 + self.trials + self.working)

    def take(self, record: Record) -> None:
        """Go on, as far as that is possible, given what one of its candidates took."""
        self.trials += 1
        if record.seconds is not None and record.relative:
            self.seconds = self.seconds or record.seconds / record.relative
            self.relative = min(self.relative, gained(record.relative))
        self.answers[record.knobs] = record.relative
        if len(self.answers) == len(self.group):
            self._next_group([self.answers[knobs] for knobs in self.group])

    def replay(self, records: Records) -> None:
        """Answer its search from the records, as far as they go."""
        known = records.measured(self.workload)
        while found := [known[knobs] for knobs in self.waiting if knobs in known]:
            self.waiting = deque(knobs for knobs in self.waiting if knobs not in known)
            for record in found:
                self.take(record)

    def _next_group(self, answers: Sequence[float | None]) -> None:
        try:
            self.group = self._search.send(answers)
        except StopIteration:
            self.group = ()
        self.answers = {}
        self.waiting = deque(self.group)


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

    def text(self, where: str) -> str:
        """For the progress line."""
        failed = f" ({self.failed} failed)" if self.failed else ""
        faster = f", {100 * (1 - self.relative):.0f} % less time so far"
        return f"tuning {len(self.tasks)} kernels{where}: {self.trials} trials{failed}{faster}"


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
    not measured again, so that an interrupted run goes on where it stopped. As many candidates as
    the bench has use for are in its hands at once.

    Raises FileError if the records cannot be written, CompileError if no candidate can be timed,
    DeviceError where no board is left.
    """
    started = time.monotonic()
    tasks = {w: _Task(w, uses, machine) for w, uses in workloads.items()}
    tally = _Tally(tasks=list(tasks.values()))
    for task in tally.tasks:
        task.replay(records)
    order = _Order(tally.tasks)
    working = 0
    while True:
        elapsed = time.monotonic() - started
        spent = budget.is_spent(tally.trials + working, elapsed)
        if not spent and working < bench.slots and (chosen := order.next()) is not None:
            bench.submit(chosen.workload, chosen.waiting.popleft())
            chosen.working += 1
            working += 1
            continue
        if not working:
            return _summary(tally)
        progress(tally.text(bench.words), *budget.progress(tally.trials, elapsed))
        workload, record = bench.collect()
        records.add(workload, record)
        task = tasks[workload]
        working -= 1
        task.working -= 1
        tally.trials += 1
        tally.failed += record.error is not None
        task.take(record)
        task.replay(records)


class _Order:
    """Which task is next: the one that promises most, for a visit of some candidates."""

    def __init__(self, tasks: Sequence[_Task]) -> None:
        self._tasks = tasks
        self._visited: _Task | None = None
        self._left = 0  # of the visit

    def next(self) -> _Task | None:
        """A task with a candidate to hand in; None where all wait for answers, or are done."""
        visited = self._visited
        if visited is None or not self._left or not visited.waiting:
            able = [task for task in self._tasks if task.waiting]
            if not able:
                return None
            visited = self._visited = max(able, key=lambda task: task.promise)
            self._left = _VISIT
        self._left -= 1
        return visited


def _summary(tally: _Tally) -> KernelTuning:
    return KernelTuning(len(tally.tasks), tally.trials, tally.failed, tally.relative)
