"""A comparison: several reports on conversions of one network, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sepify.judging.number_words import change, milliseconds, quantity, threads_text
from sepify.judging.statistics import Interval
from sepify.printable import printable_tree
from sepify.report.figures import Figure, best_times, key_figures, quality
from sepify.report.html import render_page
from sepify.report.markdown import render_markdown
from sepify.report.model import ReportData
from sepify.report.text import plain
from sepify.report.words import machine_text

FORMAT = "sepify-comparison"
VERSION = 1


@dataclass(frozen=True)
class Comparison:
    """Reports by name, in the order given; `notes` say where they cannot be compared."""

    reports: tuple[tuple[str, ReportData], ...]
    notes: tuple[str, ...]

    def __rich__(self) -> Group:
        return render(self)

    def to_dict(self) -> dict[str, Any]:
        """In plain JSON types: the reports as they are, by name."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "notes": list(self.notes),
            "reports": [{"name": name, **report.to_dict()} for name, report in self.reports],
        }


def comparison_notes(reports: Sequence[tuple[str, ReportData]]) -> tuple[str, ...]:
    """Say in which ways the reports, given with their names, cannot be compared."""
    first_name, first = reports[0]
    notes = []
    for name, report in reports[1:]:
        if (report.network, report.before.macs) != (first.network, first.before.macs):
            notes.append(f"{name} is about another network than {first_name}.")
        if quality(report).label != quality(first).label:
            notes.append(f"{name} is judged by {quality(report).label}, {first_name} is not.")
        elif quality(report).before != quality(first).before:
            notes.append(f"{name} was judged on other data than {first_name}.")
        notes += [f"{name}: {warning}" for warning in report.warnings]
        if report.latency and first.latency and report.machine != first.machine:
            notes.append(f"{name} was timed on another machine than {first_name}.")
    return tuple(notes)


HEADS = ("", "MACs", "parameters", "size", "latency, ms", "quality")


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """A row a network, HEADS for columns: the original of the first report, then each conversion
    with its change against its own original."""
    first = comparison.reports[0][1]
    lines = [_row("original", first, after=False)]
    return lines + [_row(name, report, after=True) for name, report in comparison.reports]


def _row(name: str, report: ReportData, *, after: bool) -> tuple[str, ...]:
    figures = {figure.label: figure for figure in key_figures(report)}
    shown = quality(report)
    totals = report.after if after else report.before

    def said(label: str, value: str) -> str:
        figure: Figure | None = figures.get(label)
        return f"{value} ({figure.change})" if after and figure else value

    value: Interval | None = shown.after if after else shown.before
    judged = "not measured"
    if value is not None:
        judged = f"{shown.text(value.value)} ({shown.text(value.low)} to {shown.text(value.high)})"
    return (
        name,
        said("MACs", quantity(totals.macs)),
        said("parameters", quantity(totals.params)),
        said("size", quantity(totals.size, "B")),
        _latency(report, after),
        judged,
    )


def _latency(report: ReportData, after: bool) -> str:
    best = best_times(report.latency)
    if not best or best[0].before.before is None or best[0].after.after is None:
        return "not timed"
    before, now = best[0].before.before.median, best[0].after.after.median
    seconds = now if after else before
    text = f"{milliseconds(seconds)}, {threads_text(best[0].threads)}"
    return f"{text} ({change(before, now, 'as fast', 'as slow')})" if after else text


def render(comparison: Comparison) -> Group:
    """For a terminal of 80 columns: a block a network, since six columns would not fit."""
    comparison = printable_tree(comparison)
    table = Table.grid(padding=(0, 2))
    label = quality(comparison.reports[0][1]).label
    for name, *cells in rows(comparison):
        table.add_row(Text(name, style="bold"))
        for head, cell in zip((*HEADS[1:-1], label), cells, strict=True):
            table.add_row(Text(f"  {head}"), Text(cell))
    notes = [Text(f"! {note}", style="yellow") for note in comparison.notes]
    return Group(table, *notes)


def as_text(comparison: Comparison) -> str:
    """Render plain text of at most 80 columns."""
    return plain(render(comparison))


def as_html(comparison: Comparison) -> str:
    """One page that needs nothing else."""
    first = comparison.reports[0][1]
    shown = quality(first)
    points = [("original", "before", first.before.macs, shown.before)]
    points += [(n, "after", r.after.macs, quality(r).after) for n, r in comparison.reports]
    facts = {
        "frontier": {
            "label": shown.label,
            "unit": shown.unit,
            "rows": [
                {"name": name, "kind": kind, "macs": macs, **vars(value)}
                for name, kind, macs, value in points
                if value is not None
            ],
        }
    }
    return render_page("comparison.html", facts, **_values(comparison))


def as_markdown(comparison: Comparison) -> str:
    """One table, for a pull request."""
    return render_markdown("comparison.md", **_values(comparison))


def _values(comparison: Comparison) -> dict[str, Any]:
    first = comparison.reports[0][1]
    label = quality(first).label
    lines = rows(comparison)
    spoken = "; ".join(f"{line[0]}: {line[-1]} at {line[1]} MACs" for line in lines)
    return {
        "title": f"{first.network}: {len(comparison.reports)} conversions",
        "label": label,
        "heads": (*HEADS[:-1], label),
        "rows": lines,
        "notes": comparison.notes,
        "description": f"Plot of {label} against MACs. {spoken}.",
        "machines": sorted({machine_text(report.machine) for _, report in comparison.reports}),
        "commands": [
            (name, report.origin.command)
            for name, report in comparison.reports
            if report.origin.command
        ],
    }
