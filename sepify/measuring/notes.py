"""Notes: what a reader of a report's figures should know, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from sepify.judging.number_words import milliseconds, percent, threads_text
from sepify.judging.statistics import Accuracy, Interval
from sepify.plans.plan import Plan
from sepify.process.machine import Machine
from sepify.timing.board import BoardLatency
from sepify.timing.race import Latency, LatencyRow, Spread

BUSY = 0.1  # of the machine's CPUs in other processes' hands: from here latencies are doubtful


def latency_notes(latency: Latency, machine: Machine, macs_fell: bool) -> tuple[str, ...]:
    """Note disturbed measurements, differences within the noise, and FLOPs that saved no time."""
    notes = []
    if latency.others is not None and latency.others >= BUSY * machine.cpus:
        notes.append(
            f"The machine was busy: other processes used {latency.others:.1f} of {machine.cpus} "
            "CPUs during the timing. Repeat the latencies on a quiet one."
        )
    crowded = sorted({row.threads for row in latency.rows if row.threads > machine.cpus})
    if crowded:
        notes.append(
            f"{threads_text(crowded[-1])} shared {machine.cpus} CPU(s): their latencies say little."
        )
    if latency.restless:
        notes.append(
            f"{latency.restless} turns began while threads of another runtime were still spinning; "
            "their latencies may be too long."
        )
    notes += _gained_nothing(latency.rows, macs_fell)
    slower_than_best = [r for r in latency.rows if r.over_fastest and r.over_fastest.value <= 1]
    if macs_fell and slower_than_best and len(slower_than_best) == len(latency.rows):
        notes.append("On no runtime is it faster than the fastest runtime on the original.")
    return tuple(notes)


def board_notes(board: BoardLatency, macs_fell: bool) -> tuple[str, ...]:
    """Return the notes on a board's latency, and one where the board is emulated."""
    if board.emulated:
        return (
            f"What answers at {board.board} is {board.machine.cpu}: both networks ran there and "
            "gave the right outputs, and its times are left out, for they say nothing about a "
            "board's.",
        )
    return tuple(f"On the board: {note}" for note in _gained_nothing(board.rows, macs_fell))


def shape_note(plan: Plan | None) -> tuple[str, ...]:
    """Note style, width and resolution where they are not the original's."""
    if plan is None:
        return ()
    notes = [] if plan.style == "linear" else [f"style {plan.style}"]
    notes += [] if plan.width == 1 else [f"{plan.width:g} of the width"]
    if plan.resolution is not None:
        notes.append(
            "images of {}x{}: its MACs and latency are at that size, and test images were "
            "reduced to it".format(*plan.resolution)
        )
    return (f"Converted with {', '.join(notes)}.",) if notes else ()


def accuracy_notes(accuracy: Accuracy) -> tuple[str, ...]:
    """Where the difference may be chance, or the original knows next to nothing."""
    if accuracy.lost + accuracy.gained == 0:
        return ("Both networks are right on exactly the same images.",)
    if accuracy.p >= 0.05:
        return (
            f"The difference in top-1 may be chance (McNemar p = {accuracy.p:.2f} on "
            f"{accuracy.images:,} images).",
        )
    return ()


def chance_note(original: Interval, classes: int) -> tuple[str, ...]:
    """A warning where the original is no better than guessing: the data was most likely prepared
    in another way than it was trained with."""
    if original.low <= 1 / classes:
        return (
            f"The original's top-1 of {percent(original.value)} is near chance for "
            f"{classes} classes: is the data prepared as in training?",
        )
    return ()


def _gained_nothing(rows: Sequence[LatencyRow], macs_fell: bool) -> list[str]:
    """Where time did not fall with the FLOPs, and where the difference may be chance."""
    notes = []
    slower = [row for row in rows if _not_faster(row)]
    if macs_fell and slower:
        notes.append(f"FLOPs fell, but latency did not on {_list(slower)}.")
    noisy = [row for row in rows if _within_noise(row)]
    if noisy:
        notes.append(
            "The spread (between the quartiles) is larger than the difference of the medians on "
            f"{_list(noisy)}."
        )
    return notes


def _not_faster(row: LatencyRow) -> bool:
    return row.like_for_like is not None and row.like_for_like.value <= 1


def _within_noise(row: LatencyRow) -> bool:
    if row.before is None or row.after is None:
        return False
    widest = max(_width(row.before), _width(row.after))
    return abs(row.before.median - row.after.median) < widest


def _width(spread: Spread) -> float:
    return spread.q3 - spread.q1


def _list(rows: Sequence[LatencyRow]) -> str:
    """ "torch, 1 thread (1.2 -> 1.3 ms)", several joined by semicolons."""
    return "; ".join(
        f"{row.runtime}, {threads_text(row.threads)} ({milliseconds(row.before.median)} "
        f"\N{RIGHTWARDS ARROW} {milliseconds(row.after.median)} ms)"
        for row in rows
        if row.before is not None and row.after is not None
    )
