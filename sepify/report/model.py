"""The report: what was measured on a network before and after its conversion, and its file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Group

from sepify.errors import FileError, UsageError
from sepify.faults import reading
from sepify.judging.changes import Changes
from sepify.judging.fidelity import Fidelity
from sepify.judging.metrics import MetricResult
from sepify.judging.statistics import Accuracy, Interval
from sepify.process.machine import Machine
from sepify.storage import decode, read_json, write_json, write_text
from sepify.timing.board import BoardLatency
from sepify.timing.race import Latency

FORMAT = "sepify-report"
VERSION = 4
READ_VERSIONS = (2, 3, 4)
SUFFIXES = (".json", ".html", ".md")


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
class RankPoint:
    """One order and rank of one layer: MACs for one image, the share of the kernel's energy lost by
    the best approximation of the weights, and the damage to the network's outputs that planning
    found, None where nobody planned; `measured` says whether by running it or by an estimate."""

    order: str
    rank: int
    macs: int
    energy_lost: float
    damage: float | None
    measured: bool


@dataclass(frozen=True)
class LayerRow:
    """One layer of the original beside what became of it. MACs are for one image.

    `kernel` is (N, M, kh, kw) of a convolution, the weight's shape of another layer. `action`,
    `order`, `rank`, `reason`, `error` and `heldout_error` are the plan's, None or empty for a layer
    that is not in it. `measured_error` is how far its output really moved inside the converted
    network, relative to its variance; `seconds_before` and `seconds_after` are those of the plan's
    latency table, for one image; `curve` says what other ranks would cost and lose. The last row of
    a report holds what belongs to no layer, so that the rows add up to the totals.
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
    measured_error: float | None = None
    seconds_before: float | None = None
    seconds_after: float | None = None
    curve: tuple[RankPoint, ...] = ()


@dataclass(frozen=True)
class Variant:
    """Another conversion of the same network, for the frontier: its MACs for one image, and its
    top-1, agreement or cosine, whichever this report shows for the converted network."""

    label: str
    macs: int
    value: Interval


@dataclass(frozen=True)
class Prospect:
    """A point of the planner's own frontier: MACs of the convolutions, predicted loss of the
    outputs."""

    macs: float
    loss: float


@dataclass(frozen=True)
class InputFile:
    """A file that went into the report: what for, its name, bytes and SHA-256."""

    role: str
    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Origin:
    """How to make the report again: the command, the files it read and the plan, as in plan.json.
    All empty for a report made in Python from values in memory."""

    command: str = ""
    files: tuple[InputFile, ...] = ()
    plan: dict[str, Any] | None = None


@dataclass(frozen=True)
class Report:
    """A conversion, measured. Prints as tables of at most 80 columns; `save` writes JSON, HTML or
    Markdown.

    `latency` is None where no runtime was timed here, `board` where none was on a board; `accuracy`
    (top-1) and `changes` where no labelled data was given, `top5` also for fewer than six classes.
    `metrics` are the user's own. `variants` and `prospects` stand beside this conversion on the
    frontier; `prospect_unit` is the loss's.
    `fidelity` is None where there were no images to claim one on; `judged_on` says what else was
    done with the images that it was measured on. `inputs` are the shapes of the example inputs;
    `warnings` speak against trusting the network, `notes` say what a reader should beware of.
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
    fidelity: Fidelity | None
    notes: tuple[str, ...]
    top5: Accuracy | None = None
    metrics: tuple[MetricResult, ...] = ()
    changes: Changes | None = None
    variants: tuple[Variant, ...] = ()
    prospects: tuple[Prospect, ...] = ()
    prospect_unit: str = ""
    origin: Origin = Origin()
    board: BoardLatency | None = None
    warnings: tuple[str, ...] = ()
    judged_on: str = ""

    def __rich__(self) -> Group:
        from sepify.report.text import render

        return render(self)

    def __str__(self) -> str:
        from sepify.report.text import as_text

        return as_text(self)

    def to_dict(self) -> dict[str, Any]:
        """The report in plain JSON types, with "format" and "version" in front."""
        return {"format": FORMAT, "version": VERSION, **_plain(asdict(self))}

    @classmethod
    def from_dict(cls, document: Any) -> Report:
        """The report that `to_dict` put into `document`, now or in version 2, which had no board,
        or 3, which had no warnings. Raises FileError naming the field at fault."""
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise FileError(f'not a report: "format" is not "{FORMAT}"')
        version = document.get("version")
        if type(version) is not int or version not in READ_VERSIONS:
            told = ", ".join(map(str, READ_VERSIONS))
            raise FileError(f"report version {version!r}; sepify reads {told}")
        fields = {k: v for k, v in document.items() if k not in ("format", "version")}
        if version == 2:
            fields["board"] = None
        if version in (2, 3):
            fields |= {"warnings": [], "judged_on": ""}
            if isinstance(fields.get("fidelity"), dict):
                fields["fidelity"] = {"commonest": None, "spread": None, **fields["fidelity"]}
        return decode(cls, fields, "report")

    def save(self, path: Path | str) -> None:
        """Write `path`, whole or not at all: .json for machines (`report_schema` describes it),
        .html for people (one file that needs no network), .md for a pull request. Raises UsageError
        for another suffix, FileError where it cannot be written."""
        suffix = require_report_name(path)
        if suffix == ".json":
            write_json(path, self.to_dict())
        elif suffix == ".html":
            from sepify.report.html import as_html

            write_text(path, as_html(self))
        else:
            from sepify.report.markdown import as_markdown

            write_text(path, as_markdown(self))


def require_report_name(path: Path | str) -> str:
    """The suffix of a report's file. Raises UsageError for one that reports are not saved as."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{path}: a report is saved as {', '.join(SUFFIXES)}")
    return suffix


def report_schema() -> Any:
    """The JSON Schema (draft 2020-12) of a report saved as JSON, of this version."""
    place = files("sepify.report").joinpath(f"report-{VERSION}.schema.json")
    return json.loads(place.read_text("utf-8"))


def load_report(path: Path | str) -> Report:
    """Read a report that was saved as JSON. Raises FileError naming the file and the fault, also
    where its parts contradict each other, so that it cannot be told."""
    from sepify.report.html import as_html

    try:
        report = Report.from_dict(read_json(path))
        with reading(path, "a report", "make it again"):
            str(report)
            as_html(report)
        return report
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
