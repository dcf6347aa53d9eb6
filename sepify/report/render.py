"""What a report or a comparison can be saved as: one renderer for each suffix."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sepify.errors import UsageError
from sepify.report import comparison, html, markdown, text
from sepify.report.comparison import Comparison
from sepify.report.model import ReportData
from sepify.storage import write_text


@dataclass(frozen=True)
class Renderer:
    """How the files of one suffix are made, for each kind of document."""

    report: Callable[[ReportData], str]
    comparison: Callable[[Comparison], str]


def as_json(document: ReportData | Comparison) -> str:
    """Render indented JSON; NaN, which JSON does not have, is refused."""
    return json.dumps(document.to_dict(), indent=2, allow_nan=False)


RENDERERS = {
    ".json": Renderer(as_json, as_json),  # for machines
    ".html": Renderer(html.as_html, comparison.as_html),  # for people: needs no network
    ".md": Renderer(markdown.as_markdown, comparison.as_markdown),  # for a pull request
    ".txt": Renderer(text.as_text, comparison.as_text),  # what a terminal shows
}


def save(document: ReportData | Comparison, path: Path | str) -> None:
    """Write a document atomically, rendered as the suffix of `path` says.

    Raises:
        UsageError: No renderer has this suffix.
        FileError: The file cannot be written.
    """
    renderer = RENDERERS[require_report_name(path)]
    if isinstance(document, Comparison):
        rendered = renderer.comparison(document)
    else:
        rendered = renderer.report(document)
    write_text(path, rendered if rendered.endswith("\n") else rendered + "\n")


def require_report_name(path: Path | str) -> str:
    """Return the suffix of a report's file. Raises UsageError for one without a renderer."""
    suffix = Path(path).suffix.lower()
    if suffix not in RENDERERS:
        raise UsageError(f"{path}: a report is saved as {', '.join(RENDERERS)}")
    return suffix
