"""The headline and the key figures of a report, which every renderer shows."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.judging.fidelity import alike
from sepify.judging.number_words import (
    change,
    decimal,
    factor,
    milliseconds,
    percent,
    points,
    quantity,
    signed,
    threads_text,
)
from sepify.judging.statistics import Interval
from sepify.report.model import ReportData
from sepify.report.words import ARROW, sqnr_text
from sepify.timing.board import BoardLatency
from sepify.timing.race import Latency, LatencyRow

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Figure:
    """One key figure: before -> after, the change in words, and what else to know about it."""

    label: str
    before: str
    after: str
    change: str
    detail: str = ""
    better: bool | None = None  # None where it is neither better nor worse


@dataclass(frozen=True)
class BestTime:
    """The fastest runtime on each network at one number of threads."""

    threads: int
    before: LatencyRow
    after: LatencyRow


@dataclass(frozen=True)
class Quality:
    """What this report judges the networks by: top-1, the user's metric, or likeness to the
    original; `unit` is "share" (0 to 1, said in per cent) or "number". Both values are None where
    nothing was judged."""

    label: str
    unit: str
    before: Interval | None
    after: Interval | None

    def text(self, value: float) -> str:
        """A value in this unit."""
        return percent(value) if self.unit == "share" else decimal(value)


def headline(report: ReportData) -> str:
    """The report in one sentence."""
    macs = change(report.before.macs, report.after.macs)
    parts = [f"{report.network} after conversion needs {macs} MACs"]
    if report.before.macs == report.after.macs:
        parts = [f"{report.network} after conversion needs as many MACs as before"]
    best = best_times(report.latency)
    if best:
        quickest = best[0]
        times = _median_before(quickest.before) / _median_after(quickest.after)
        if times >= 1:
            speed = f"runs {factor(times)} as fast as the fastest runtime on the original"
        else:
            speed = f"takes {factor(1 / times)} as long as the fastest runtime on the original"
        parts.append(f"{speed} ({threads_text(quickest.threads)})")
    if report.accuracy is not None:
        now, then = report.accuracy.after.value, report.accuracy.before.value
        parts.append(f"scores {percent(now)} top-1 instead of {percent(then)}")
    elif report.metrics:
        given = report.metrics[0]
        now, then = given.after.value, given.before.value
        parts.append(f"has a mean {given.name} of {decimal(now)} instead of {decimal(then)}")
    elif report.fidelity is None:
        parts.append("nothing is claimed of how near it is to the original")
    elif report.fidelity.agreement is not None:
        agreement = percent(report.fidelity.agreement.value)
        parts.append(f"gives the original's top-1 answer on {agreement} of the inputs")
    elif report.fidelity.sqnr is not None:
        parts.append(f"answers like the original to an SQNR of {report.fidelity.sqnr:.1f} dB")
    elif report.fidelity.identical:
        parts.append("answers exactly like the original")
    return f"{', '.join(parts[:-1])}, and {parts[-1]}." if len(parts) > 1 else f"{parts[0]}."


def key_figures(report: ReportData) -> tuple[Figure, ...]:
    """MACs, parameters, size, latency where it was timed, here or on a board, and accuracy (or what
    stands for it): before and after."""
    b, a = report.before, report.after
    stored = b.stored_as if b.stored_as == a.stored_as else f"{b.stored_as}, {a.stored_as}"
    flops = f"{quantity(b.flops)} {ARROW} {quantity(a.flops)}"
    figures = [
        _counted("MACs", b.macs, a.macs, f"one image, exact; FLOPs (2 per MAC) {flops}"),
        _counted("parameters", b.params, a.params, "exact"),
        Figure(
            "size",
            quantity(b.size, "B"),
            quantity(a.size, "B"),
            change(b.size, a.size, "smaller", "larger"),
            stored,
            _better(b.size, a.size),
        ),
    ]
    times = best_times(report.latency)
    if times:
        figures.append(_time_figure(times[0], times[1:]))
    if report.board is not None:
        figures += _board_figures(report.board)
    figures.append(_quality_figure(report))
    return tuple(figures)


def quality(report: ReportData) -> Quality:
    """The user's metric before top-1 before agreement before the mean cosine: the first there is.
    Without labels the original agrees with itself, exactly."""
    exact = Interval(1.0, 1.0, 1.0)
    if report.metrics:
        given = report.metrics[0]
        return Quality(given.name, "number", given.before, given.after)
    if report.accuracy is not None:
        return Quality("top-1", "share", report.accuracy.before, report.accuracy.after)
    if report.fidelity is None:
        return Quality("fidelity, not measured", "number", None, None)
    if report.fidelity.agreement is not None:
        return Quality("same top-1 answer as before", "share", exact, alike(report.fidelity))
    return Quality("mean cosine with the original", "number", exact, alike(report.fidelity))


def best_times(latency: Latency | None) -> tuple[BestTime, ...]:
    """For each number of threads, the fastest runtime on each network, by medians."""
    if latency is None:
        return ()
    best = []
    for threads in dict.fromkeys(row.threads for row in latency.rows):
        rows = [row for row in latency.rows if row.threads == threads]
        before = min((r for r in rows if r.before), key=_median_before, default=None)
        after = min((r for r in rows if r.after), key=_median_after, default=None)
        if before is not None and after is not None:
            best.append(BestTime(threads, before, after))
    return tuple(best)


def _median_before(row: LatencyRow) -> float:
    return row.before.median if row.before else float("inf")


def _median_after(row: LatencyRow) -> float:
    return row.after.median if row.after else float("inf")


def _quality_figure(report: ReportData) -> Figure:
    if report.metrics:
        given = report.metrics[0]
        low, high = given.difference.low, given.difference.high
        return Figure(
            given.name,
            decimal(given.before.value),
            decimal(given.after.value),
            f"{signed(given.difference.value)}",
            f"95 %: {signed(low)} to {signed(high)}; {given.images:,} images",
        )
    if report.accuracy is not None:
        paired = report.accuracy
        return Figure(
            "top-1",
            percent(paired.before.value),
            percent(paired.after.value),
            f"{points(paired.difference.value)} points",
            f"95 %: {points(paired.difference.low)} to {points(paired.difference.high)}; "
            f"{paired.images:,} images",
            None if paired.p >= 0.05 else paired.gained > paired.lost,
        )
    return _fidelity_figure(report)


def _time_figure(best: BestTime, others: tuple[BestTime, ...]) -> Figure:
    before, after = _median_before(best.before), _median_after(best.after)
    ratio = best.after.over_fastest
    runtimes = f"{best.before.runtime} {ARROW} {best.after.runtime}"
    if best.before.runtime == best.after.runtime:
        runtimes = best.after.runtime
    detail = "fastest runtime of each: " + runtimes
    if ratio is not None:
        detail += f"; 95 %: {factor(ratio.low)} to {factor(ratio.high)}"
    for other in others:
        b, a = _median_before(other.before), _median_after(other.after)
        detail += (
            f". {threads_text(other.threads)}: {milliseconds(b)} {ARROW} {milliseconds(a)} ms, "
            f"{change(b, a, 'as fast', 'as slow')}"
        )
    settled = ratio is not None and not ratio.low <= 1 <= ratio.high
    return Figure(
        f"latency, {threads_text(best.threads)}",
        f"{milliseconds(before)} ms",
        f"{milliseconds(after)} ms",
        change(before, after, "as fast", "as slow"),
        detail,
        before > after if settled else None,
    )


def _board_figures(board: BoardLatency) -> list[Figure]:
    """One, of as many threads as TVM takes there; none of an emulator."""
    row = board.rows[-1]
    if row.before is None or row.after is None or row.like_for_like is None:
        return []
    ratio = row.like_for_like
    before, after = row.before.median, row.after.median
    return [
        Figure(
            f"latency on {board.target}, {threads_text(row.threads)}",
            f"{milliseconds(before)} ms",
            f"{milliseconds(after)} ms",
            change(before, after, "as fast", "as slow"),
            f"board: {board.board}; 95 %: {factor(ratio.low)} to {factor(ratio.high)}",
            None if ratio.low <= 1 <= ratio.high else before > after,
        )
    ]


def _fidelity_figure(report: ReportData) -> Figure:
    given = report.fidelity
    if given is None:
        return Figure(
            "fidelity", NONE, NONE, "none is claimed", "no images were kept to measure it"
        )
    on = f"{given.inputs} input" + ("" if given.inputs == 1 else "s") + ", no labels"
    on += f", {report.judged_on}" if report.judged_on else ""
    if given.agreement is not None:
        return Figure(
            "top-1 agreement", "100 %", percent(given.agreement.value), "with the original", on
        )
    return Figure(
        "cosine", "1", f"{given.cosine:.4f}", "of the outputs", f"{on}; SQNR {sqnr_text(report)}"
    )


def _counted(label: str, before: int, after: int, detail: str = "") -> Figure:
    better = _better(before, after)
    return Figure(label, quantity(before), quantity(after), change(before, after), detail, better)


def _better(before: float, after: float) -> bool | None:
    return None if before == after else after < before
