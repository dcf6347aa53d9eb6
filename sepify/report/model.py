"""The data of a report: what was measured on a network before and after its conversion."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, TypeVar

from sepify.errors import FileError
from sepify.judging.changes import Changes
from sepify.judging.fidelity import Fidelity
from sepify.judging.metrics import MetricResult
from sepify.judging.statistics import Accuracy, Interval
from sepify.process.machine import Machine
from sepify.storage import decode
from sepify.timing.board import BoardLatency
from sepify.timing.race import Latency

FORMAT = "sepify-report"
VERSION = 4
READ_VERSIONS = (2, 3, 4)

AnyReport = TypeVar("AnyReport", bound="ReportData")


@dataclass(frozen=True)
class Totals:
    """What one network costs.

    Attributes:
        macs: Multiply-adds for one image.
        params: How many parameters it has.
        size: Bytes on disk.
        stored_as: The kind of file that `size` was measured on, in words.
    """

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
    that is not in it; `rank` is the channels between the parts of a bottleneck and the like.
    `measured_error` is how far its output really moved inside the converted network, relative to
    its variance; `seconds_before` and `seconds_after` are those of the plan's latency table, for
    one image; `curve` says what other ranks would cost and lose. The last row of a report holds
    what belongs to no layer, so that the rows add up to the totals.
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
class ReportData:
    """A measured conversion, without any way to show it: `sepify.Report` adds printing and saving.

    Attributes:
        network: The network's name.
        created: When it was measured, in ISO 8601 and UTC.
        machine: Where the work was done.
        versions: The version of each library that took part, by name.
        seed: The seed of every random choice.
        inputs: The shapes of the example inputs.
        method: How the factors were found, "svd" or "least-squares"; None where nobody says.
        before: Costs of the original.
        after: Costs of the converted network.
        layers: The original's layers, each beside what became of it.
        latency: None where no runtime was timed here.
        accuracy: Top-1, None without labelled data.
        fidelity: Agreement with the original without labels; None without images to claim one on.
        notes: What a reader should beware of.
        top5: None without labelled data and for fewer than six classes.
        metrics: The user's own metrics.
        changes: Which answers changed, None without labelled data.
        variants: Other conversions, beside this one on the frontier.
        prospects: The planner's own frontier.
        prospect_unit: The unit of the loss in `prospects`, "kl" or "relative"; empty without them.
        origin: How to make the report again.
        board: Latency on a board, None where none was timed.
        warnings: Reasons not to trust the converted network.
        judged_on: What else was done with the images that `fidelity` was measured on.
    """

    network: str
    created: str
    machine: Machine
    versions: dict[str, str]
    seed: int
    inputs: tuple[tuple[int, ...], ...]
    method: str | None
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

    def to_dict(self) -> dict[str, Any]:
        """The report in plain JSON types, with "format" and "version" in front."""
        return {"format": FORMAT, "version": VERSION, **_plain(asdict(self))}

    @classmethod
    def from_dict(cls: type[AnyReport], document: Any) -> AnyReport:
        """Read what `to_dict` gave, of this version or an older one.

        Version 2 had no board, version 3 no warnings.

        Args:
            document: Plain JSON types.

        Raises:
            FileError: The document is not a report, or a field, which is named, is at fault.
        """
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


def report_schema() -> Any:
    """The JSON Schema (draft 2020-12) of a report saved as JSON, of this version."""
    name = f"report-{VERSION}.schema.json"
    return json.loads(files("sepify.report").joinpath(name).read_text("utf-8"))


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON will give them back."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
