"""Latency of several runtimes against one another: in one process, in turns of random order.

What disturbs such a race most is the loser's idle threads: a runtime's workers spin for a while
after a run in hope of the next (measured on two cores: torch's OpenMP 12 ms, onnxruntime 80 ms),
and a contender that starts meanwhile shares its cores with them. torch on two threads right after
onnxruntime on two took 35 times its own time. Turning the spinning off would slow the runtime that
is to be measured; so each turn first waits until the process uses no CPU, then discards the runs
that the pause has made cold. TVM also binds the calling thread to one core; each turn undoes that.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from sepify.errors import UsageError
from sepify.process.machine import busy_cpu_seconds

Which = Literal["before", "after"]
Samples = npt.NDArray[np.float64]

REPEATS = 4  # timed runs in a turn
DISCARDED = 2  # untimed runs that open a turn: the pause before it lets caches and clocks go cold
WARM_UP = 5
ROUNDS = (6, 40)  # fewest, most
IDLE_SLICE = 0.003  # seconds asleep while the process's CPU time is watched
IDLE_SHARE = 0.1  # of a CPU: less than this is idle
IDLE_LIMIT = 0.5  # seconds after which a turn starts all the same
BOOTSTRAPS = 2_000

METHOD = (
    "All contenders run in one process; every round gives each of them one turn, in a new random "
    "order. A turn waits until the process is idle (worker threads of the runtime before it may "
    "still be spinning), makes {discarded} discarded runs and then {repeats} timed ones; "
    "{rounds} rounds. Every runtime gets the same number of threads."
)


@dataclass(frozen=True)
class Contender:
    """One network on one runtime with `threads` threads. `prepare` sets the threads, `run` is one
    inference; only `run` is timed."""

    runtime: str
    threads: int
    which: Which
    prepare: Callable[[], None]
    run: Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """The spread of all timed runs, in seconds, and how many there were."""

    min: float
    q1: float
    median: float
    q3: float
    runs: int


@dataclass(frozen=True)
class Ratio:
    """Median before / median after, above 1 where the conversion is faster, with its 95 %
    percentile-bootstrap interval over rounds (Efron and Tibshirani 1993, chapter 13)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LatencyRow:
    """One runtime at one number of threads. None for a network that this runtime could not run.

    `like_for_like` compares with the original on the same runtime; `over_fastest` with the
    original on whichever runtime was fastest on it at the same number of threads.
    """

    runtime: str
    threads: int
    before: Spread | None
    after: Spread | None
    like_for_like: Ratio | None
    over_fastest: Ratio | None


@dataclass(frozen=True)
class Skipped:
    """A runtime that did not take part, and why."""

    runtime: str
    reason: str


@dataclass(frozen=True)
class Latency:
    """The race: `batch` images a run; `restless` turns began while threads were still spinning;
    `others` is how many CPUs other processes kept busy meanwhile, None where nobody can tell."""

    rows: tuple[LatencyRow, ...]
    skipped: tuple[Skipped, ...]
    batch: int
    rounds: int
    repeats: int
    restless: int
    others: float | None
    method: str


@dataclass(frozen=True)
class Race:
    """Seconds of every timed run, (contenders, rounds, repeats); the turns that began before the
    process was idle; and the CPUs that other processes kept busy on average, if that is known."""

    samples: Samples
    restless: int
    others: float | None


def race(
    contenders: Sequence[Contender],
    *,
    seed: int,
    seconds: float,
    rounds: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], bool] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Race:
    """Time the contenders against each other as the module's text says.

    `rounds` is chosen so that the race takes about `seconds`, within ROUNDS, where it is not
    given. The same seed gives the same order of turns. Raises UsageError without contenders.
    """
    if not contenders:
        raise UsageError("there is nothing to time")
    settle = settle or wait_until_idle
    affinity = _affinity()

    def start_turn(contender: Contender) -> bool:
        _set_affinity(affinity)  # the runtime before may have bound this thread to one core
        contender.prepare()
        return settle()

    with thread_settings_restored():
        round_time = sum(_turn_time(contender, start_turn, clock) for contender in contenders)
    if rounds is None:
        rounds = min(max(int(seconds / max(round_time, 1e-9)), ROUNDS[0]), ROUNDS[1])

    random = np.random.default_rng(seed)
    samples: Samples = np.empty((len(contenders), rounds, REPEATS))
    restless = 0
    busy_at_first = _others_cpu_seconds()
    began = time.perf_counter()
    with _no_garbage_collection(), thread_settings_restored():
        for turn in range(rounds):
            for index in random.permutation(len(contenders)):
                contender = contenders[index]
                restless += not start_turn(contender)
                for _ in range(DISCARDED):
                    contender.run()
                for repeat in range(REPEATS):
                    started = clock()
                    contender.run()
                    samples[index, turn, repeat] = clock() - started
            if progress is not None:
                progress("timing the runtimes", turn + 1, rounds)
    busy_at_last = _others_cpu_seconds()
    others = None
    if busy_at_first is not None and busy_at_last is not None:
        others = max(busy_at_last - busy_at_first, 0.0) / (time.perf_counter() - began)
    return Race(samples, restless, others)


def _turn_time(
    contender: Contender, start_turn: Callable[[Contender], bool], clock: Callable[[], float]
) -> float:
    """Warm a contender up and estimate how many seconds a turn of it takes."""
    start_turn(contender)
    started = clock()
    for _ in range(WARM_UP):
        contender.run()
    return (clock() - started) / WARM_UP * (DISCARDED + REPEATS) + 10 * IDLE_SLICE


def wait_until_idle() -> bool:
    """Sleep until this process uses no CPU; False where it still does after IDLE_LIMIT seconds."""
    deadline = time.perf_counter() + IDLE_LIMIT
    while time.perf_counter() < deadline:
        used = time.process_time()
        time.sleep(IDLE_SLICE)
        if time.process_time() - used < IDLE_SHARE * IDLE_SLICE:
            return True
    return False


def summarise(
    contenders: Sequence[Contender], result: Race, skipped: Sequence[Skipped], batch: int, seed: int
) -> Latency:
    """Return the rows of a race, in the contenders' order of runtimes, with both kinds of ratio."""
    samples = {
        (c.runtime, c.threads, c.which): s for c, s in zip(contenders, result.samples, strict=True)
    }
    rows = []
    for runtime, threads in dict.fromkeys((c.runtime, c.threads) for c in contenders):
        before = samples.get((runtime, threads, "before"))
        after = samples.get((runtime, threads, "after"))
        originals = [s for key, s in samples.items() if key[1:] == (threads, "before")]
        fastest = min(originals, key=np.median, default=None)
        rows.append(
            LatencyRow(
                runtime,
                threads,
                None if before is None else spread(before),
                None if after is None else spread(after),
                None if before is None or after is None else ratio(before, after, seed),
                None if fastest is None or after is None else ratio(fastest, after, seed),
            )
        )
    rounds, repeats = result.samples.shape[1:]
    method = METHOD.format(discarded=DISCARDED, repeats=repeats, rounds=rounds)
    return Latency(
        rows=tuple(rows),
        skipped=tuple(skipped),
        batch=batch,
        rounds=rounds,
        repeats=repeats,
        restless=result.restless,
        others=result.others,
        method=method,
    )


def spread(samples: Samples) -> Spread:
    """Return the minimum and the quartiles of all timed runs."""
    q1, median, q3 = (float(q) for q in np.quantile(samples, (0.25, 0.5, 0.75)))
    return Spread(float(samples.min()), q1, median, q3, samples.size)


def ratio(before: Samples, after: Samples, seed: int) -> Ratio:
    """Ratio of the medians of (rounds, repeats) samples; rounds are resampled for both together,
    since a disturbance of the machine hits both contenders of a round."""
    random = np.random.default_rng(seed)
    rounds = before.shape[0]
    drawn = random.integers(rounds, size=(BOOTSTRAPS, rounds))
    ratios = np.median(before[drawn], axis=(1, 2)) / np.median(after[drawn], axis=(1, 2))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Ratio(float(np.median(before) / np.median(after)), float(low), float(high))


def _others_cpu_seconds() -> float | None:
    busy = busy_cpu_seconds()
    return None if busy is None else busy - time.process_time()


@contextmanager
def thread_settings_restored() -> Iterator[None]:
    """After the block this thread may run where it could before, and torch has its number of
    threads again. (TVM binds the thread that calls it to one core, and threads that other runtimes
    start later would inherit that.)"""
    threads, affinity = torch.get_num_threads(), _affinity()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _set_affinity(affinity)


def _affinity() -> set[int] | None:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None


def _set_affinity(cpus: set[int] | None) -> None:
    # only where it differs: the call moves the thread, at a cost
    if cpus is not None and _affinity() != cpus:
        os.sched_setaffinity(0, cpus)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
