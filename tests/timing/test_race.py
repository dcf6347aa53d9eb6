from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sepify.errors import UsageError
from sepify.timing.race import (
    DISCARDED,
    REPEATS,
    ROUNDS,
    WARM_UP,
    Contender,
    Race,
    Skipped,
    Which,
    race,
    ratio,
    spread,
    summarise,
)


class FakeMachine:
    """A clock that only runs advance, and a diary of what happened."""

    def __init__(self) -> None:
        self.now = 0.0
        self.diary: list[str] = []

    def clock(self) -> float:
        return self.now

    def settle(self) -> bool:
        self.diary.append("settle")
        return True

    def contender(self, name: str, which: Which, seconds: float, threads: int = 1) -> Contender:
        def run() -> None:
            self.diary.append(f"run {name} {which}")
            self.now += seconds

        def prepare() -> None:
            self.diary.append(f"prepare {name} {which}")

        return Contender(name, threads, which, prepare, run)


def three(machine: FakeMachine) -> list[Contender]:
    return [
        machine.contender("a", "before", 0.004),
        machine.contender("a", "after", 0.002),
        machine.contender("b", "before", 0.001),
    ]


def turns(diary: list[str]) -> list[str]:
    return [entry.removeprefix("prepare ") for entry in diary if entry.startswith("prepare")]


def test_every_round_gives_every_contender_one_equal_turn() -> None:
    machine = FakeMachine()
    contenders = three(machine)
    result = race(
        contenders, seed=3, seconds=1, rounds=5, clock=machine.clock, settle=machine.settle
    )
    names = {"a before", "a after", "b before"}
    order = turns(machine.diary)[len(contenders) :]  # behind the warm-up
    assert len(order) == 5 * len(contenders)
    for start in range(0, len(order), 3):
        assert set(order[start : start + 3]) == names
    for name in names:
        assert machine.diary.count(f"run {name}") == WARM_UP + 5 * (DISCARDED + REPEATS)
    assert result.samples.shape == (3, 5, REPEATS)
    assert np.allclose(result.samples[0], 0.004)
    assert np.allclose(result.samples[2], 0.001)


def test_a_turn_sets_threads_then_settles_then_runs_undisturbed() -> None:
    machine = FakeMachine()
    race(three(machine), seed=0, seconds=1, rounds=2, clock=machine.clock, settle=machine.settle)
    start = len(machine.diary) - 6 * (2 + DISCARDED + REPEATS)
    length = 2 + DISCARDED + REPEATS
    for turn in range(6):
        entries = machine.diary[start + turn * length : start + (turn + 1) * length]
        assert entries[0].startswith("prepare ")
        assert entries[1] == "settle"
        assert set(entries[2:]) == {entries[0].replace("prepare", "run")}


def order_of(seed: int) -> list[str]:
    machine = FakeMachine()
    race(three(machine), seed=seed, seconds=1, rounds=8, clock=machine.clock, settle=machine.settle)
    return turns(machine.diary)


def test_the_order_is_random_and_the_seed_decides_it() -> None:
    assert order_of(1) == order_of(1)
    assert order_of(1) != order_of(2)
    order = order_of(1)
    rounds = {tuple(order[start : start + 3]) for start in range(3, 27, 3)}
    assert len(rounds) > 1


@pytest.mark.parametrize(("seconds", "rounds"), [(0.001, ROUNDS[0]), (1e6, ROUNDS[1])])
def test_rounds_follow_the_time_given_within_bounds(seconds: float, rounds: int) -> None:
    machine = FakeMachine()
    result = race(
        three(machine), seed=0, seconds=seconds, clock=machine.clock, settle=machine.settle
    )
    assert result.samples.shape[1] == rounds


def test_restless_turns_are_counted_and_progress_is_told() -> None:
    machine = FakeMachine()
    told: list[tuple[int, int]] = []
    result = race(
        three(machine),
        seed=0,
        seconds=1,
        rounds=4,
        clock=machine.clock,
        settle=lambda: False,
        progress=lambda _, done, total: told.append((done, total)),
    )
    assert result.restless == 12
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(UsageError, match="nothing to time"):
        race([], seed=0, seconds=1)


def test_spread_and_ratio_of_known_samples() -> None:
    samples = np.arange(1.0, 10.0).reshape(3, 3)
    given = spread(samples)
    assert (given.min, given.q1, given.median, given.q3, given.runs) == (1, 3, 5, 7, 9)
    same = ratio(2 * samples, samples, seed=0)
    assert (same.value, same.low, same.high) == pytest.approx((2, 2, 2))  # rounds are paired
    noise = np.random.default_rng(0).uniform(0.5, 1.5, (30, 4))
    wide = ratio(noise, noise[::-1], seed=0)
    assert wide.low < wide.value < wide.high


def fixed(seconds: float) -> Callable[[int], np.ndarray]:
    return lambda rounds: np.full((rounds, REPEATS), seconds)


def test_ratios_like_for_like_and_over_the_fastest() -> None:
    machine = FakeMachine()
    entries: list[tuple[str, Which, int, float]] = [
        ("slow", "before", 1, 10.0),
        ("slow", "after", 1, 4.0),
        ("fast", "before", 1, 2.0),
        ("fast", "after", 1, 1.0),
        ("slow", "before", 2, 6.0),
        ("slow", "after", 2, 3.0),
        ("new", "after", 1, 0.5),
    ]
    contenders = [machine.contender(name, which, 0, n) for name, which, n, _ in entries]
    samples = np.stack([fixed(seconds)(6) for *_, seconds in entries])
    skipped = [Skipped("gone", "not installed")]
    latency = summarise(contenders, Race(samples, 0, None), skipped, batch=2, seed=0)
    rows = {(row.runtime, row.threads): row for row in latency.rows}

    def values(runtime: str, threads: int) -> tuple[float | None, float | None]:
        row = rows[runtime, threads]
        return tuple(r and r.value for r in (row.like_for_like, row.over_fastest))

    assert values("slow", 1) == (2.5, 0.5)  # faster than itself, slower than the fastest original
    assert values("fast", 1) == (2.0, 2.0)
    assert values("slow", 2) == (2.0, 2.0)
    assert values("new", 1) == (None, 4.0)
    assert rows["new", 1].before is None
    assert latency.skipped == (Skipped("gone", "not installed"),)
    assert (latency.batch, latency.rounds, latency.repeats) == (2, 6, REPEATS)
    assert f"{DISCARDED} discarded" in latency.method
