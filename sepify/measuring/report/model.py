"""The report: what was measured on a network before and after its conversion, and its file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Group

from sepify.errors import FileError, UsageError
from sepify.measuring.accuracy import Accuracy
from sepify.measuring.fidelity import Fidelity
from sepify.measuring.latency import Latency
from sepify.measuring.machine import Machine
from sepify.measuring.report.decode import decode
from sepify.storage import read_json, write_json, write_text

FORMAT = "sepify-report"
VERSION = 1


@dataclass(frozen=True)
class Totals:
    """Of one network: MACs (multiply-adds) for one image, parameters, bytes on disk and as what."""

    macs: int
    params: int
    size: int
    stored_as: str

    @property
    def flops(self) -> int:
        """Floating-point operations for one image: two for a multiply-add."""
        return 2 * self.macs


@dataclass(frozen=True)
class LayerRow:
    """One layer of the original beside what became of it. MACs are for one image.

    `kernel` is (N, M, kh, kw) of a convolution, the weight's shape of another layer. `action`,
    `order`, `rank`, `reason`, `error` and `heldout_error` are the plan's, None or empty for a layer
    that is not in it. The last row of a report holds what belongs to no layer, so that the rows
    add up to the totals.
    """

    name: str
    kind: str
    kernel: tuple[int, ...]
    action: str | None
    order: str | None
    rank: int | None
    reason: str
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    error: float | None
    heldout_error: float | None


@dataclass(frozen=True)
class Report:
    """A conversion, measured. Prints as tables of at most 80 columns; `save` writes JSON or HTML.

    `latency` is None where no runtime was timed, `accuracy` where no labelled data was given.
    `inputs` are the shapes of the example inputs; `notes` say what a reader should beware of.
    """

    network: str
    created: str  # ISO 8601, UTC
    machine: Machine
    versions: dict[str, str]
    seed: int
    inputs: tuple[tuple[int, ...], ...]
    method: str | None  # how the factors were found: "svd" or "least-squares"
    before: Totals
    after: Totals
    layers: tuple[LayerRow, ...]
    latency: Latency | None
    accuracy: Accuracy | None
    fidelity: Fidelity
    notes: tuple[str, ...]

    def __rich__(self) -> Group:
        from sepify.measuring.report.text import render

        return render(self)

    def __str__(self) -> str:
        from sepify.measuring.report.text import as_text

        return as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The report in plain JSON types, with "format" and "version" in front."""
        return {"format": FORMAT, "version": VERSION, **_plain(asdict(self))}

    @classmethod
    def from_dict(cls, document: Any) -> Report:
        """The report that `to_dict` put into `document`. Raises FileError naming the field at
        fault."""
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise FileError(f'not a report: "format" is not "{FORMAT}"')
        if document.get("version") != VERSION:
            raise FileError(f"report version {document.get('version')!r}; sepify reads {VERSION}")
        fields = {k: v for k, v in document.items() if k not in ("format", "version")}
        return decode(cls, fields, "report")

    def save(self, path: Path | str) -> None:
        """Write `path`, whole or not at all: .json for machines, .html for people (one file that
        needs no network). Raises UsageError for another suffix, FileError where it cannot be
        written."""
        suffix = Path(path).suffix.lower()
        if suffix == ".json":
            write_json(path, self.to_dict())
        elif suffix == ".html":
            from sepify.measuring.report.html import as_html

            write_text(path, as_html(self))
        else:
            raise UsageError(f"{path}: a report is saved as .json or .html")


def load_report(path: Path | str) -> Report:
    """Read a report that was saved as JSON. Raises FileError naming the file and the fault."""
    try:
        return Report.from_dict(read_json(path))
    except FileError as error:
        message = str(error)
        raise FileError(message if str(path) in message else f"{path}: {message}") from error


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON will give them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
