from __future__ import annotations

from sepify.measuring.notes import latency_notes
from sepify.process.machine import Machine, busy_cpu_seconds, installed_versions, this_machine
from sepify.timing.race import Latency, LatencyRow, Ratio, Spread

MACHINE = Machine("A CPU", 2, (), "Linux", None)


def spread(median: float, width: float = 0.0) -> Spread:
    return Spread(median, median - width / 2, median, median + width / 2, 24)


def latency(*rows: LatencyRow, others: float | None = 0.0, restless: int = 0) -> Latency:
    return Latency(rows, (), 1, 6, 4, restless, others, "")


def row(before: Spread, after: Spread, over: float = 2.0, threads: int = 1) -> LatencyRow:
    mine = before.median / after.median
    ratios = Ratio(mine, mine, mine), Ratio(over, over, over)
    return LatencyRow("torch", threads, before, after, *ratios)


def test_a_clear_gain_on_a_quiet_machine_needs_no_note() -> None:
    assert latency_notes(latency(row(spread(0.01), spread(0.005))), MACHINE, True) == ()


def test_fewer_flops_that_bought_no_time() -> None:
    slower = latency(row(spread(0.010), spread(0.012), over=0.5))
    (fell, fastest) = latency_notes(slower, MACHINE, True)
    assert fell == "FLOPs fell, but latency did not on torch, 1 thread (10.0 → 12.0 ms)."
    assert fastest == "On no runtime is it faster than the fastest runtime on the original."
    assert latency_notes(slower, MACHINE, False) == ()


def test_noise_larger_than_the_difference() -> None:
    noisy = latency(row(spread(0.010, 0.004), spread(0.008)))
    (note,) = latency_notes(noisy, MACHINE, True)
    assert "spread (between the quartiles) is larger than the difference" in note
    assert latency_notes(latency(row(spread(0.010, 0.001), spread(0.008))), MACHINE, True) == ()


def test_disturbances() -> None:
    calm = row(spread(0.01), spread(0.005), threads=4)
    notes = latency_notes(latency(calm, others=0.9, restless=3), MACHINE, True)
    assert "other processes used 0.9 of 2 CPUs" in notes[0]
    assert "4 threads shared 2 CPU(s)" in notes[1]
    assert "3 turns began" in notes[2]
    assert latency_notes(latency(row(spread(2), spread(1)), others=None), MACHINE, True) == ()


def test_this_machine_is_described() -> None:
    machine = this_machine()
    assert machine.cpu
    assert machine.cpus >= 1
    assert {"python", "torch"} <= installed_versions().keys()
    earlier = busy_cpu_seconds()
    later = busy_cpu_seconds()
    assert (earlier is None) == (later is None)
    if earlier is not None and later is not None:
        assert 0 < earlier <= later
