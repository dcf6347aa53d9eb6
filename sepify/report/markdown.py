"""The report as Markdown, for a pull request."""

from __future__ import annotations

import re
from typing import Any

from sepify.judging import number_words
from sepify.printable import printable, printable_tree
from sepify.report import descriptions, words
from sepify.report.figures import headline, key_figures, quality
from sepify.report.model import ReportData

# what GitHub makes lists, links, mentions and emoji of without any brackets
_SPOKEN = re.compile(
    r"^[-+=](?= )|^\d+(?=[.)] )|:(?=//)|www(?=\.)|@(?=\w)|(?<!\d):(?=[\w+-]+:)", re.IGNORECASE
)


def as_markdown(report: ReportData) -> str:
    """GitHub's Markdown. Every name and reason is escaped: it stays text on one line."""
    report = printable_tree(report)
    shares = [("top-1", report.accuracy), ("top-5", report.top5)]
    return render_markdown(
        "report.md",
        title=f"{report.network}: conversion report",
        report=report,
        words=words,
        numbers=number_words,
        quality=quality(report),
        headline=headline(report),
        key_figures=key_figures(report),
        frontier_rows=descriptions.frontier_rows(report),
        shares=[(label, given) for label, given in shares if given is not None],
    )


def render_markdown(template: str, **values: Any) -> str:
    """One of the Markdown templates; whatever it prints is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def finished(value: Any) -> Any:
        return value if isinstance(value, Markup) else escape_markdown(str(value))

    environment = Environment(
        loader=PackageLoader("sepify.report", "page"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finished,
    )
    environment.filters["html"] = escape
    return environment.get_template(template).render(**values)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: on one line, its punctuation escaped."""
    flat = printable(" ".join(text.split()))
    escaped = re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", flat)
    escaped = escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPOKEN.sub(r"\g<0><!-- -->", escaped)
