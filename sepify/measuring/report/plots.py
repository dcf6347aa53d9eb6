"""The two plots of the HTML report, as SVG that takes its colours from the page's style sheet."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from sepify.measuring.report.words import percent, quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sepify.measuring.accuracy import Interval
    from sepify.measuring.report.model import LayerRow, Report

# Stand-ins that matplotlib draws with. In the SVG each becomes a variable of the page's style, so
# that one drawing serves the light and the dark scheme.
COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--quiet)",
    "#030303": "var(--line)",
    "#040404": "var(--before)",
    "#050505": "var(--after)",
}
INK, QUIET, LINE, BEFORE, AFTER = COLOURS

WIDTH = 4.4  # inches of 72 points; text of 10 points stays readable on a phone's width
SHOWN_LAYERS = 24
LONGEST_NAME = 22
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page then sets its own
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a layer may be called $x$
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def frontier_plot(report: Report) -> str:
    """MACs across, top-1 with its 95 % interval up; without labels, agreement with the original;
    without classes, the mean cosine of the outputs."""
    label, before, after = frontier_values(report)
    with _style():
        figure, axes = _figure(3.1)
        costs = report.before.macs / 1e6, report.after.macs / 1e6
        axes.plot(costs, (before.value, after.value), color=LINE, linewidth=1.5, zorder=1)
        for cost, value, colour, marker, name in (
            (costs[0], before, BEFORE, "o", "before"),
            (costs[1], after, AFTER, "D", "after"),
        ):
            bars = [[value.value - value.low], [value.high - value.value]]
            axes.errorbar(
                cost,
                value.value,
                yerr=bars,
                color=colour,
                marker=marker,
                markersize=8,
                capsize=4,
                linewidth=1.8,
                zorder=2,
            )
            left = cost > sum(costs) / 2
            # beside the marker and clear of the line between the two
            above = (after.value <= before.value) == left
            axes.annotate(
                f"{name}\n{_value_text(report, value)}",
                (cost, value.value),
                xytext=(-9 if left else 9, 5 if above else -5),
                textcoords="offset points",
                ha="right" if left else "left",
                va="bottom" if above else "top",
                color=colour,
            )
        axes.set_xlim(0, 1.12 * max(*costs, 1e-9))
        low, high = min(before.low, after.low), max(before.high, after.high)
        room = max(0.35 * (high - low), 0.002)
        axes.set_ylim(low - room, high + room)
        axes.set_xlabel("MACs of one image, million")
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(lambda value, _: _tick(report, value))
        return _svg(figure, "frontier")


def frontier_values(report: Report) -> tuple[str, Interval, Interval]:
    """What the frontier plot shows up: its label, and the original's and the converted value."""
    from sepify.measuring.accuracy import Interval

    exact = Interval(1.0, 1.0, 1.0)
    if report.accuracy is not None:
        return "top-1", report.accuracy.before, report.accuracy.after
    if report.fidelity.agreement is not None:
        return "same top-1 answer as before", exact, report.fidelity.agreement
    cosine = report.fidelity.cosine
    return "mean cosine with the original", exact, Interval(cosine, cosine, cosine)


def frontier_description(report: Report) -> str:
    """The alt text of the frontier plot."""
    label, before, after = frontier_values(report)
    return (
        f"Plot of {label} against MACs. Before: {_value_text(report, before)} at "
        f"{quantity(report.before.macs)} MACs; after: {_value_text(report, after)} at "
        f"{quantity(report.after.macs)} MACs."
    )


def layer_plot(report: Report) -> str:
    """MACs by layer, before and after, as pairs of bars; the costliest layers one by one."""
    rows, others = shown_layers(report)
    bars = [(_short(row.name), row.macs_before / 1e6, row.macs_after / 1e6) for row in rows]
    if others:
        before, after = sum(r.macs_before for r in others), sum(r.macs_after for r in others)
        bars.append((f"{len(others)} others", before / 1e6, after / 1e6))
    with _style():
        figure, axes = _figure(0.9 + 0.30 * max(len(bars), 2))
        places = range(len(bars))
        axes.barh(
            [p - 0.19 for p in places], [b for _, b, _ in bars], 0.36, color=BEFORE, label="before"
        )
        axes.barh(
            [p + 0.19 for p in places], [a for _, _, a in bars], 0.36, color=AFTER, label="after"
        )
        axes.set_yticks(list(places), [name for name, _, _ in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("MACs of one image, million")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2)
        return _svg(figure, "by-layer")


def shown_layers(report: Report) -> tuple[list[LayerRow], list[LayerRow]]:
    """The costliest layers in the network's order, and the rest of those that cost anything."""
    costing = [row for row in report.layers if row.macs_before or row.macs_after]
    ranked = sorted(costing, key=lambda row: -max(row.macs_before, row.macs_after))
    if len(ranked) <= SHOWN_LAYERS:
        return costing, []
    chosen = {id(row) for row in ranked[: SHOWN_LAYERS - 1]}
    shown = [row for row in costing if id(row) in chosen]
    return shown, [row for row in costing if id(row) not in chosen]


def layer_description(report: Report) -> str:
    """The alt text of the plot by layer."""
    rows, others = shown_layers(report)
    if not rows:
        return "Plot of MACs by layer: no layer multiplies."
    top = max(rows, key=lambda row: row.macs_before)
    rest = f" and {len(others)} others together" if others else ""
    return (
        f"Bars of MACs before and after for {len(rows)} layers{rest}. The costliest before is "
        f"{top.name}: {quantity(top.macs_before)}, after {quantity(top.macs_after)}. The table of "
        "layers has every value."
    )


def _value_text(report: Report, value: Interval) -> str:
    if report.accuracy is None and report.fidelity.agreement is None:
        return f"{value.value:.4f}"
    return percent(value.value)


def _tick(report: Report, value: float) -> str:
    if report.accuracy is None and report.fidelity.agreement is None:
        return f"{value:.3f}"
    return f"{100 * value:.1f} %" if value <= 1 else ""


def _short(name: str) -> str:
    """The end of a long name: that is where layers differ."""
    return (
        name if len(name) <= LONGEST_NAME else "\N{HORIZONTAL ELLIPSIS}" + name[1 - LONGEST_NAME :]
    )


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context(STYLE)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure as NewFigure  # without pyplot: no global state, no window

    figure = NewFigure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, name: str) -> str:
    """`figure` as an <svg> element to stand in a page: no prologue, no metadata, no size of its
    own, ids that start with `name`, colours from the page. The same figure, the same text."""
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    opening, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    svg = f'<svg {box.group() if box else ""} aria-hidden="true">{rest}'
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = svg.replace("'DejaVu Sans'", "var(--font)")
    for stand_in, colour in COLOURS.items():
        svg = svg.replace(stand_in, colour)
    return svg
