"""The report in a terminal: tables that fit 80 columns."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sepify.judging.number_words import (
    decimal,
    decimal_range,
    difference,
    factor,
    interval,
    milliseconds,
    p_value,
    percent,
    quantity,
    range_text,
    signed,
)
from sepify.printable import printable_tree
from sepify.report.figures import headline, key_figures
from sepify.report.model import LayerRow, ReportData
from sepify.report.words import (
    class_text,
    decision_text,
    kernel_text,
    machine_text,
    ratio_range,
    sqnr_text,
    versions_text,
)
from sepify.timing.board import BoardLatency
from sepify.timing.race import Ratio, Spread

WIDTH = 80
NONE = "\N{EN DASH}"
FIXED = ("runtime", "network", "done")  # columns whose words are short and known


def as_text(report: ReportData) -> str:
    """Render plain text of at most 80 columns."""
    return plain(render(report))


def plain(shown: RenderableType) -> str:
    """Print to a string what a rich console would show, without colours."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    console.print(shown)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines()).strip("\n")


def render(report: ReportData) -> Group:
    """Render for a rich console. Nothing in the report is read as rich markup."""
    report = printable_tree(report)
    parts: list[RenderableType] = [Text(headline(report), style="bold")]
    parts += [*_beware(report.warnings, "bold red"), _figures(report)]
    if report.latency is not None:
        parts += [_latency(report), *_skipped(report)]
    if report.board is not None:
        parts += _board(report.board)
    parts += [_agreement(report), _layers(report), *_kept(report)]
    parts += _beware(report.notes, "yellow")
    parts.append(Text(_circumstances(report), style="dim"))
    return Group(*parts)


def _table(title: str, *columns: tuple[str, str]) -> Table:
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for name, justify in columns:
        right = justify == "right"
        table.add_column(
            name,
            justify="right" if right else "left",
            no_wrap=right or name in FIXED,
            overflow="fold",
        )
    return table


def _figures(report: ReportData) -> RenderableType:
    table = _table(
        "", ("", "left"), ("before", "right"), ("after", "right"), ("change", "left"), ("", "left")
    )
    for figure in key_figures(report):
        table.add_row(
            Text(figure.label),
            Text(figure.before),
            Text(figure.after),
            Text(figure.change, style={True: "green", False: "red", None: ""}[figure.better]),
            Text(figure.detail, style="dim"),
        )
    return table


def _latency(report: ReportData) -> RenderableType:
    assert report.latency is not None
    batch = report.latency.batch
    images = "1 image" if batch == 1 else f"{batch} images"
    table = _table(
        f"\nLatency in ms, {images} a run",
        ("runtime", "left"),
        ("threads", "right"),
        ("network", "left"),
        ("min", "right"),
        ("median", "right"),
        ("quartiles", "right"),
        ("like\nfor like", "right"),
        ("over\nfastest", "right"),
    )
    for row in report.latency.rows:
        name, threads = Text(row.runtime), str(row.threads)
        if row.before is not None:
            table.add_row(name, threads, "before", *_times(row.before), "", "")
            name, threads = Text(""), ""
        if row.after is not None:
            ratios = _ratio(row.like_for_like), _ratio(row.over_fastest)
            table.add_row(name, threads, "after", *_times(row.after), *ratios)
    table.caption = Text(
        "like for like: before / after on the same runtime. over fastest: the fastest runtime on "
        "the original / this one, same threads. Above 1\N{MULTIPLICATION SIGN} is faster.",
        style="dim",
    )
    table.caption_justify = "left"
    return table


def _board(board: BoardLatency) -> list[RenderableType]:
    table = _table(
        f"\nLatency on the board at {board.board}, in ms, compiled for {board.target}",
        ("threads", "right"),
        ("network", "left"),
        ("min", "right"),
        ("median", "right"),
        ("quartiles", "right"),
        ("before / after\n(95 %)", "right"),
    )
    for row in board.rows:
        for which, spread in (("before", row.before), ("after", row.after)):
            times = (NONE,) * 3 if spread is None else _times(spread)
            ratio = row.like_for_like if which == "after" else None
            ratio_text = f"{factor(ratio.value)} ({ratio_range(ratio)})" if ratio else ""
            table.add_row(str(row.threads), which, *times, ratio_text)
    return [table, Text(machine_text(board.machine), style="dim")]


def _times(spread: Spread) -> tuple[str, str, str]:
    quartiles = range_text(spread.q1, spread.q3)
    return milliseconds(spread.min), milliseconds(spread.median), quartiles


def _ratio(ratio: Ratio | None) -> str:
    return NONE if ratio is None else factor(ratio.value)


def _skipped(report: ReportData) -> list[RenderableType]:
    skipped = report.latency.skipped if report.latency else ()
    return [Text(f"{missed.runtime} was not timed: {missed.reason}") for missed in skipped]


def _agreement(report: ReportData) -> RenderableType:
    lines = []
    for label, given in (("Top-1", report.accuracy), ("Top-5", report.top5)):
        if given is not None:
            lines += [
                f"{label} on {given.images:,} labelled images (95 % intervals)",
                f"  before      {percent(given.before.value)}  ({interval(given.before)})",
                f"  after       {percent(given.after.value)}  ({interval(given.after)})",
                f"  difference  {difference(given)}; lost {given.lost}, gained {given.gained}, "
                f"McNemar {p_value(given.p)}",
            ]
    for metric in report.metrics:
        lines += [
            f"{metric.name}, mean of {metric.images:,} images (95 % intervals)",
            f"  before      {decimal(metric.before.value)}  ({decimal_range(metric.before)})",
            f"  after       {decimal(metric.after.value)}  ({decimal_range(metric.after)})",
            f"  difference  {signed(metric.difference.value)}  "
            f"({signed(metric.difference.low)} to {signed(metric.difference.high)})",
        ]
    if report.changes is not None and report.changes.changed:
        worst = report.changes.pairs[0]
        lines.append(
            f"{report.changes.changed:,} images got another answer; most often "
            f"{class_text(report.changes, worst.before)} became "
            f"{class_text(report.changes, worst.after)} ({worst.images})"
        )
    fidelity = report.fidelity
    if fidelity is None:
        return Text("\n" + "\n".join([*lines, "Fidelity was not measured, and none is claimed"]))
    same, plural = "", "" if fidelity.inputs == 1 else "s"
    if fidelity.agreement is not None:
        share, range_ = percent(fidelity.agreement.value), interval(fidelity.agreement)
        same = f"same top-1 answer {share} ({range_}), "
    judged_on = f" ({report.judged_on})" if report.judged_on else ""
    lines.append(
        f"Fidelity on {fidelity.inputs:,} input{plural}{judged_on}: {same}"
        f"mean cosine {fidelity.cosine:.4f}, SQNR {sqnr_text(report)}"
    )
    return Text("\n" + "\n".join(lines))


def _layers(report: ReportData) -> RenderableType:
    table = _table(
        "\nLayers (MACs of one image)",
        ("layer", "left"),
        ("kernel", "left"),
        ("done", "left"),
        ("MACs", "right"),
        ("after", "right"),
        ("fewer", "right"),
        ("error", "right"),
    )
    for layer in report.layers:
        if not layer.macs_before and not layer.macs_after:
            continue
        error = layer.error if layer.heldout_error is None else layer.heldout_error
        table.add_row(
            Text(layer.name),
            Text(kernel_text(layer.kernel)),
            Text(decision_text(layer)),
            quantity(layer.macs_before),
            quantity(layer.macs_after),
            _fewer(layer),
            "" if error is None else percent(error, 1),
        )
    if any(layer.error is not None for layer in report.layers):
        table.caption = Text(error_text(report), style="dim")
        table.caption_justify = "left"
    return table


def _fewer(layer: LayerRow) -> str:
    if layer.macs_before == layer.macs_after or not layer.macs_after:
        return NONE
    return factor(layer.macs_before / layer.macs_after)


def error_text(report: ReportData) -> str:
    """What the column of predicted errors means in this report."""
    if any(layer.heldout_error is not None for layer in report.layers):
        return "error: predicted, relative squared, of the layer's outputs on held-out inputs"
    if report.method == "least-squares":
        return "error: predicted, relative squared, of the layer's outputs on the fitted inputs"
    return "error: predicted, relative squared, of the layer's weights"


def _kept(report: ReportData) -> list[RenderableType]:
    reasons: dict[str, list[str]] = {}
    for layer in report.layers:
        if layer.action == "keep":
            reasons.setdefault(layer.reason, []).append(layer.name)
    lines = [f"kept, {why or 'no reason given'}: {', '.join(of)}" for why, of in reasons.items()]
    return [Text("\n" + "\n".join(lines))] if lines else []


def _beware(sentences: Sequence[str], style: str) -> list[RenderableType]:
    if not sentences:
        return []
    grid = Table.grid(padding=(0, 1))
    for sentence in sentences:
        grid.add_row(Text("!", style=style), Text(sentence))
    return [Padding(grid, (1, 0, 0, 0))]


def _circumstances(report: ReportData) -> str:
    machine = report.machine
    others = report.latency.others if report.latency else None
    busy = "" if others is None else f"; other processes used {others:.2f} CPUs meanwhile"
    governor = "" if machine.governor is None else f", governor {machine.governor}"
    return (
        f"\n{machine_text(machine)}{governor}{busy}\n{versions_text(report.versions)}; "
        f"seed {report.seed}; {report.created}"
    )
