"""The report as one HTML page that needs nothing else: style and plots are inside."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sepify.measuring.report import plots, words
from sepify.measuring.report.text import error_text

if TYPE_CHECKING:
    from sepify.measuring.report.model import Report


def as_html(report: Report) -> str:
    """The page. Every name and reason is escaped, the plots are drawn by matplotlib."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("sepify.measuring.report").joinpath("template.html").read_text("utf-8")
    largest = max((max(r.macs_before, r.macs_after) for r in report.layers), default=0) or 1
    return environment.from_string(template).render(
        report=report,
        words=words,
        headline=words.headline(report),
        figures=words.key_figures(report),
        frontier=Markup(plots.frontier_plot(report)),
        frontier_text=plots.frontier_description(report),
        by_layer=Markup(plots.layer_plot(report)),
        by_layer_text=plots.layer_description(report),
        error_text=error_text(report),
        share=lambda macs: _share(macs, largest),
    )


def _share(macs: int, largest: int) -> Any:
    """A bar's width in per cent of its cell."""
    return round(max(100 * macs / largest, 0), 2)
