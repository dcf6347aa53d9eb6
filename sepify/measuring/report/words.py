"""How a report says its numbers: units, ratios, the sentence and the key figures on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sepify.measuring.accuracy import Accuracy, Interval
from sepify.measuring.latency import Latency, LatencyRow, Ratio

if TYPE_CHECKING:
    from sepify.measuring.report.model import LayerRow, Report


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


def quantity(value: float, unit: str = "") -> str:
    """12345678 -> "12.3 M"; the unit follows the prefix: "12.3 MB"."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 0.9995: what would round to 1000 of a prefix is 1.00 of the next
        if abs(value) >= 0.9995 * limit:
            return f"{_digits(value / limit)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def milliseconds(seconds: float) -> str:
    """0.00123 -> "1.23"; without its unit, three digits."""
    return _digits(seconds * 1e3)


def percent(share: float, digits: int = 2) -> str:
    """0.9276 -> "92.76 %"."""
    return f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """-0.009 -> "-0.90", in percentage points, with a true minus sign."""
    text = f"{100 * difference:+.2f}"
    return text.replace("-", "\N{MINUS SIGN}")


def change(before: float, after: float, less: str = "fewer", more: str = "more") -> str:
    """How many times less or more `after` is than `before`: "4.7x fewer"."""
    if before == after:
        return "the same"
    if not before or not after:
        return more if after else "none left"
    times = before / after
    return f"{factor(times)} {less}" if times > 1 else f"{factor(1 / times)} {more}"


def factor(times: float) -> str:
    """4.7123 -> "4.71x", with a multiplication sign."""
    return f"{_digits(times)}\N{MULTIPLICATION SIGN}"


def interval(estimate: Interval) -> str:
    """The 95 % interval of a share: "92.2 to 93.2 %"."""
    return f"{100 * estimate.low:.2f} to {100 * estimate.high:.2f} %"


def p_value(p: float) -> str:
    """p = 0.03, or p < 0.001."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def difference(accuracy: Accuracy) -> str:
    """after - before in points with its interval: "-0.90 points (-1.20 to -0.61)"."""
    given = accuracy.difference
    return f"{points(given.value)} points ({points(given.low)} to {points(given.high)})"


def range_text(low: float, high: float) -> str:
    """Two times in seconds as a range of ms: "1.20-1.31"."""
    return f"{milliseconds(low)}\N{EN DASH}{milliseconds(high)}"


def ratio_range(ratio: Ratio) -> str:
    """The 95 % interval of a ratio: "2.05-2.20"."""
    return f"{_digits(ratio.low)}\N{EN DASH}{_digits(ratio.high)}"


def kernel_text(kernel: tuple[int, ...]) -> str:
    """(64, 32, 3, 3) -> "32->64 3x3": channels in and out, then the window."""
    arrow, by = "\N{RIGHTWARDS ARROW}", "\N{MULTIPLICATION SIGN}"
    if len(kernel) < 2:
        return by.join(map(str, kernel))
    return f"{kernel[1]}{arrow}{kernel[0]} {by.join(map(str, kernel[2:]))}".rstrip()


def decision_text(layer: LayerRow) -> str:
    """What the plan did: "dw-pw, rank 2", "keep", or nothing for a layer that is not in it."""
    if layer.action == "separate":
        return f"{layer.order}, rank {layer.rank}"
    return layer.action or ""


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


def threads_text(threads: int) -> str:
    """1 -> "1 thread"."""
    return f"{threads} thread" if threads == 1 else f"{threads} threads"


def headline(report: Report) -> str:
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
    elif report.fidelity.agreement is not None:
        agreement = percent(report.fidelity.agreement.value)
        parts.append(f"gives the original's top-1 answer on {agreement} of the inputs")
    elif report.fidelity.sqnr is not None:
        parts.append(f"answers like the original to an SQNR of {report.fidelity.sqnr:.1f} dB")
    elif report.fidelity.identical:
        parts.append("answers exactly like the original")
    return f"{', '.join(parts[:-1])}, and {parts[-1]}." if len(parts) > 1 else f"{parts[0]}."


def key_figures(report: Report) -> tuple[Figure, ...]:
    """MACs, FLOPs, parameters, size, latency and accuracy (or fidelity), before and after."""
    b, a = report.before, report.after
    stored = b.stored_as if b.stored_as == a.stored_as else f"{b.stored_as}, {a.stored_as}"
    figures = [
        _counted("MACs", b.macs, a.macs, "multiply-adds, one image"),
        _counted("FLOPs", b.flops, a.flops, "2 per MAC, one image"),
        _counted("parameters", b.params, a.params),
        Figure(
            "size",
            quantity(b.size, "B"),
            quantity(a.size, "B"),
            change(b.size, a.size, "smaller", "larger"),
            stored,
            _better(b.size, a.size),
        ),
    ]
    figures += [_time_figure(best) for best in best_times(report.latency)]
    if report.accuracy is not None:
        given = report.accuracy
        figures.append(
            Figure(
                "top-1",
                percent(given.before.value),
                percent(given.after.value),
                f"{points(given.difference.value)} points",
                f"95 %: {points(given.difference.low)} to {points(given.difference.high)}",
                None if given.p >= 0.05 else given.gained > given.lost,
            )
        )
    else:
        figures.append(_fidelity_figure(report))
    return tuple(figures)


def _time_figure(best: BestTime) -> Figure:
    before, after = _median_before(best.before), _median_after(best.after)
    ratio = best.after.over_fastest
    runtimes = f"{best.before.runtime} \N{RIGHTWARDS ARROW} {best.after.runtime}"
    if best.before.runtime == best.after.runtime:
        runtimes = best.after.runtime
    detail = "fastest runtime of each: " + runtimes
    if ratio is not None:
        detail += f"; 95 %: {factor(ratio.low)} to {factor(ratio.high)}"
    settled = ratio is not None and not ratio.low <= 1 <= ratio.high
    return Figure(
        f"latency, {threads_text(best.threads)}",
        f"{milliseconds(before)} ms",
        f"{milliseconds(after)} ms",
        change(before, after, "as fast", "as slow"),
        detail,
        before > after if settled else None,
    )


def _fidelity_figure(report: Report) -> Figure:
    given = report.fidelity
    on = f"{given.inputs} input" + ("" if given.inputs == 1 else "s") + ", no labels"
    if given.agreement is not None:
        return Figure(
            "top-1 agreement", "100 %", percent(given.agreement.value), "with the original", on
        )
    return Figure(
        "cosine", "1", f"{given.cosine:.4f}", "of the outputs", f"{on}; SQNR {sqnr_text(report)}"
    )


def sqnr_text(report: Report) -> str:
    """Signal-to-quantisation-noise ratio of the outputs in dB, in words where there is none."""
    if report.fidelity.identical:
        return "none: identical outputs"
    if report.fidelity.sqnr is None:
        return "none: the original answers zero"
    return f"{report.fidelity.sqnr:.1f} dB"


def _counted(label: str, before: int, after: int, detail: str = "") -> Figure:
    better = _better(before, after)
    return Figure(label, quantity(before), quantity(after), change(before, after), detail, better)


def _better(before: float, after: float) -> bool | None:
    return None if before == after else after < before


def _digits(value: float) -> str:
    """Three significant digits, never in exponents: 0.0123, 1.23, 12.3, 123."""
    magnitude = abs(value)
    if magnitude >= 99.95:
        return f"{value:.0f}"
    if magnitude >= 9.995:
        return f"{value:.1f}"
    if magnitude >= 0.9995:
        return f"{value:.2f}"
    return f"{value:.3f}" if magnitude >= 0.09995 else f"{value:.4f}"
