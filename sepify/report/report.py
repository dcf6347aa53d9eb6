"""The report as users hold it: data that prints and saves itself, and is read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group

from sepify.errors import FileError, UsageError
from sepify.faults import reading
from sepify.report.comparison import Comparison, comparison_notes
from sepify.report.html import as_html
from sepify.report.model import ReportData
from sepify.report.render import save
from sepify.report.text import as_text, render
from sepify.storage import read_json


@dataclass(frozen=True)
class Report(ReportData):
    """A measured conversion, which prints as tables of at most 80 columns and saves itself."""

    def __rich__(self) -> Group:
        return render(self)

    def __str__(self) -> str:
        return as_text(self)

    def save(self, path: Path | str) -> None:
        """Write the report atomically.

        Args:
            path: Ends in .json for machines (`sepify report --schema` describes it), .html for
                people (one file that needs no network), .md for a pull request, or .txt.

        Raises:
            UsageError: The suffix is another one.
            FileError: The file cannot be written.
        """
        save(self, path)


def load_report(path: Path | str) -> Report:
    """Read a report that was saved as JSON.

    Args:
        path: A .json file of this version of the format or an older one.

    Raises:
        FileError: The file is missing, damaged, or its parts contradict each other so that it
            cannot be shown.
    """
    try:
        report = Report.from_dict(read_json(path))
        with reading(path, "a report", "make it again"):
            as_text(report)
            as_html(report)
        return report
    except FileError as error:
        message = str(error)
        raise FileError(message if str(path) in message else f"{path}: {message}") from error


def compare_reports(paths: Sequence[Path]) -> Comparison:
    """Read two or more reports saved as JSON and set them side by side.

    Raises:
        UsageError: Fewer than two are given.
        FileError: A file is not a report.
    """
    if len(paths) < 2:
        raise UsageError("comparing reports needs two or more of them: a.report.json b.report.json")
    names = _short_names(paths)
    reports = tuple(zip(names, (load_report(path) for path in paths), strict=True))
    return Comparison(reports, comparison_notes(reports))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Name files without their suffixes, or by their paths where those names are the same."""
    names = [path.name.removesuffix(".json").removesuffix(".report") for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]
