"""What the page's charts draw, as plain JSON: shares 0 to 1, times in ms, MACs of one image."""

from __future__ import annotations

from typing import Any

from sepify.judging.changes import ClassCount
from sepify.judging.number_words import threads_text
from sepify.judging.statistics import Interval
from sepify.report.figures import quality
from sepify.report.model import LayerRow, ReportData
from sepify.report.words import class_text, loss_unit
from sepify.timing.race import Spread

MOST_CLASSES = 20  # a matrix of more answers is not readable
SHOWN_CLASSES = 30


def chart_facts(report: ReportData) -> dict[str, Any]:
    """Everything that the scripts of the page need; keys as page/charts.js reads them."""
    return {
        "frontier": _frontier(report),
        "prospects": {
            "unit": loss_unit(report),
            "rows": [{"macs": p.macs, "loss": p.loss} for p in report.prospects],
        },
        "unit": loss_unit(report),
        "latency": _latency(report),
        "confusion": _confusion(report),
        "classes": _classes(report),
        "layers": [_layer(row) for row in report.layers],
    }


def _frontier(report: ReportData) -> dict[str, Any]:
    shown = quality(report)
    named: list[tuple[str, str, int, Interval | None]] = [
        ("before", "before", report.before.macs, shown.before),
        ("after", "after", report.after.macs, shown.after),
        *((v.label, "other", v.macs, v.value) for v in report.variants),
    ]
    rows = [
        _point(name, kind, macs, value) for name, kind, macs, value in named if value is not None
    ]
    return {"label": shown.label, "unit": shown.unit, "rows": rows}


def _point(name: str, kind: str, macs: int, value: Interval) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "macs": macs,
        "value": value.value,
        "low": value.low,
        "high": value.high,
    }


def _latency(report: ReportData) -> list[dict[str, Any]]:
    rows = []
    for row in report.latency.rows if report.latency else ():
        name = f"{row.runtime}, {threads_text(row.threads)}"
        for which, spread in (("before", row.before), ("after", row.after)):
            if spread is not None:
                rows.append({"runtime": name, "which": which, **_times(spread)})
    return rows


def _times(spread: Spread) -> dict[str, float]:
    times = {"min": spread.min, "q1": spread.q1, "median": spread.median, "q3": spread.q3}
    return {name: 1e3 * seconds for name, seconds in times.items()}


def confusion_fits(report: ReportData) -> bool:
    """Whether the changed answers are of few enough classes for a matrix that can be read."""
    return report.changes is not None and 0 < len(_answers(report)) <= MOST_CLASSES


def _answers(report: ReportData) -> list[int]:
    changes = report.changes
    pairs = changes.pairs if changes else ()
    return sorted({pair.before for pair in pairs} | {pair.after for pair in pairs})


def _confusion(report: ReportData) -> dict[str, Any]:
    changes = report.changes
    if changes is None:
        return {"names": [], "rows": []}
    rows = [
        {
            "before": class_text(changes, pair.before),
            "after": class_text(changes, pair.after),
            "images": pair.images,
            "lost": pair.lost,
            "gained": pair.gained,
        }
        for pair in changes.pairs
    ]
    return {"names": [class_text(changes, answer) for answer in _answers(report)], "rows": rows}


def class_rows(report: ReportData) -> list[ClassCount]:
    """The classes whose share of right answers changed most, in the order of their numbers."""
    given = report.changes.classes if report.changes else ()
    ranked = sorted(given, key=lambda row: -abs(row.after - row.before) / row.images)
    return sorted(ranked[:SHOWN_CLASSES], key=lambda row: row.label)


def _classes(report: ReportData) -> list[dict[str, Any]]:
    changes = report.changes
    if changes is None:
        return []
    return [
        {
            "name": class_text(changes, row.label),
            "images": row.images,
            "before": row.before / row.images,
            "after": row.after / row.images,
        }
        for row in class_rows(report)
    ]


def _layer(row: LayerRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "order": row.order,
        "rank": row.rank,
        "macs": row.macs_before,
        "params": [row.params_before, row.params_after],
        "curve": [
            [p.order, p.rank, p.macs, round(p.energy_lost, 5), p.damage, p.measured]
            for p in row.curve
        ],
    }
