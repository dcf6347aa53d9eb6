"""Alternative text for the plots, and tables of the values that they show."""

from __future__ import annotations

from sepify.judging.number_words import milliseconds, points, quantity, threads_text
from sepify.judging.statistics import Interval
from sepify.report.facts import class_rows
from sepify.report.figures import Quality, best_times, quality
from sepify.report.model import ReportData
from sepify.report.words import class_text, loss_unit


def frontier(report: ReportData) -> str:
    """Describe the plot of quality against cost."""
    shown = quality(report)
    parts = [f"{name}: {value} at {macs} MACs" for name, macs, value, _ in frontier_rows(report)]
    return f"Plot of {shown.label} against MACs. {'; '.join(parts)}."


def frontier_rows(report: ReportData) -> list[tuple[str, str, str, str]]:
    """Name, MACs, value and interval of each point, the cheapest first."""
    shown = quality(report)
    networks: list[tuple[str, int, Interval | None]] = [
        ("before", report.before.macs, shown.before),
        ("after", report.after.macs, shown.after),
        *((v.label, v.macs, v.value) for v in report.variants),
    ]
    networks.sort(key=lambda entry: entry[1])
    return [
        (name, quantity(macs), shown.text(value.value), _interval(shown, value))
        for name, macs, value in networks
        if value is not None
    ]


def _interval(shown: Quality, value: Interval) -> str:
    if value.low == value.high:
        return "none"
    return f"{shown.text(value.low)} to {shown.text(value.high)}"


def prospects(report: ReportData) -> str:
    """Describe the plot of the planner's frontier."""
    if not report.prospects:
        return ""
    first, last = report.prospects[0], report.prospects[-1]
    return (
        f"Plot of predicted loss of the outputs ({loss_unit(report)}) against MACs, from "
        f"{first.loss:.3g} at {quantity(first.macs)} to {last.loss:.3g} at {quantity(last.macs)}."
    )


def prospect_rows(report: ReportData) -> list[tuple[str, str]]:
    """MACs and predicted loss of each point."""
    return [(quantity(point.macs), f"{point.loss:.3g}") for point in report.prospects]


def latency(report: ReportData) -> str:
    """Describe the plot of latencies."""
    parts = [
        f"with {threads_text(best.threads)} the fastest is {best.before.runtime} before, "
        f"{milliseconds(best.before.before.median)} ms, and {best.after.runtime} after, "
        f"{milliseconds(best.after.after.median)} ms"
        for best in best_times(report.latency)
        if best.before.before and best.after.after
    ]
    return f"Plot of latencies by runtime: {'; '.join(parts)}. The table has every value."


def confusion(report: ReportData) -> str:
    """Describe the matrix of changed answers."""
    changes = report.changes
    if changes is None or not changes.pairs:
        return ""
    top = changes.pairs[0]
    return (
        f"Matrix of the {len(changes.pairs)} most frequent changes of answer. The most frequent: "
        f"{class_text(changes, top.before)} to {class_text(changes, top.after)}, "
        f"{top.images} images. The list below has every value."
    )


def classes(report: ReportData) -> str:
    """Describe the plot of accuracy by class."""
    changes = report.changes
    if changes is None or not changes.classes:
        return ""
    worst = min(class_rows(report), key=lambda row: (row.after - row.before) / row.images)
    return (
        "Plot of the share of right answers by class before and after. The class that loses most: "
        f"{class_text(changes, worst.label)}, "
        f"{points((worst.after - worst.before) / worst.images)} points. The list below has every "
        "value."
    )
