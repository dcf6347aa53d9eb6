"""The report as one HTML page that needs nothing else: style, scripts and values are inside."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from typing import Any

from sepify.judging import number_words
from sepify.judging.layer_errors import IMAGES
from sepify.printable import printable, printable_tree
from sepify.report import descriptions, words
from sepify.report.facts import chart_facts, class_rows, confusion_fits
from sepify.report.figures import headline, key_figures, quality
from sepify.report.model import ReportData
from sepify.report.text import error_text

# Observable Plot draws, on d3; both are ISC-licensed, their licences stand beside them
SCRIPTS = ("vendor/d3.min.js", "vendor/plot.min.js", "page/charts.js", "page/table.js")


def as_html(report: ReportData) -> str:
    """The page. Every name and reason is escaped; a browser is told to run the scripts of this page
    alone and to fetch nothing."""
    largest = max((max(r.macs_before, r.macs_after) for r in report.layers), default=0) or 1
    report = printable_tree(report)
    shares = [("top-1", report.accuracy), ("top-5", report.top5)]
    return render_page(
        "report.html",
        chart_facts(report),
        title=f"{report.network}: conversion report",
        report=report,
        words=words,
        numbers=number_words,
        quality=quality(report),
        headline=headline(report),
        key_figures=key_figures(report),
        frontier_text=descriptions.frontier(report),
        frontier_rows=descriptions.frontier_rows(report),
        prospects_text=descriptions.prospects(report),
        prospect_rows=descriptions.prospect_rows(report),
        latency_text=descriptions.latency(report),
        confusion_text=descriptions.confusion(report),
        classes_text=descriptions.classes(report),
        shares=[(label, given) for label, given in shares if given is not None],
        class_rows=class_rows(report),
        confusion_fits=confusion_fits(report),
        timed=any(row.seconds_before is not None for row in report.layers),
        total=report.before.macs or 1,
        share=lambda macs: round(max(100 * macs / largest, 0), 2),
        error_text=error_text(report) if any(r.error is not None for r in report.layers) else "",
        measured_images=IMAGES,
        plan_text=json.dumps(report.origin.plan, indent=2),
    )


def render_page(template: str, facts: dict[str, Any], **values: Any) -> str:
    """One of the page's templates with the style sheet, the scripts and the charts' `facts`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("sepify.report", "page"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_read(name) for name in SCRIPTS]
    return environment.get_template(template).render(
        facts=printable_tree(facts),
        style=Markup(_read("page/style.css")),
        scripts=[Markup(script) for script in scripts],
        script_hashes=Markup(" ".join(_hash(script) for script in scripts)),
        **values,
    )


def _shown(value: Any) -> Any:
    """What a template prints: texts of their own without control characters, markup as it is."""
    return printable(value, lines=True) if type(value) is str else value


def _read(name: str) -> str:
    return files("sepify.report").joinpath(name).read_text("utf-8")


def _hash(script: str) -> str:
    """As a Content-Security-Policy names a script that may run."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
