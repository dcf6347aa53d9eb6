"""What `sepify inspect` shows: every convolution, its cost, and how separable its kernel is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sepify.capture import capture
from sepify.formats.input_note import InputRequest
from sepify.formats.load import load_model
from sepify.formats.loaded import LoadedModel
from sepify.graph.convolutions import Convolution, survey
from sepify.graph.maps import Maps, measure_maps
from sepify.measuring.rank_curves import energy_lost
from sepify.plans.costs import standard_cost
from sepify.plans.forms import Separate, full_rank
from sepify.printable import printable_tree
from sepify.process.progress import Progress, silent

SHOWN_RANKS = (1, 2, 3)


@dataclass(frozen=True)
class AtRank:
    """A layer as dw-pw at a rank: its multiply-adds for one image, and the share of the kernel's
    energy that the SVD keeps."""

    rank: int
    macs: int
    energy_kept: float


@dataclass(frozen=True)
class Inspected:
    """A convolution: kernel (N, M, kh, kw), multiply-adds for one image, and what ranks 1 to 3
    would do, or the reason why it has to stay."""

    name: str
    kernel: tuple[int, ...]
    macs: int
    ranks: tuple[AtRank, ...]
    kept: str | None


@dataclass(frozen=True)
class Inspection:
    """All convolutions in execution order; `totals` are their multiply-adds at ranks 1 to 3."""

    layers: tuple[Inspected, ...]
    macs: int
    totals: dict[int, int]

    def to_dict(self) -> dict[str, Any]:
        """In plain JSON types."""
        return asdict(self)


def inspect_file(spec: str, asked: InputRequest, progress: Progress | None = None) -> Inspection:
    """Load a model and look at it. Raises as `load_model` and `inspect_model`."""
    return inspect_model(load_model(spec, asked), progress)


def inspect_model(model: LoadedModel, progress: Progress | None = None) -> Inspection:
    """Look at a model without changing it. Raises CaptureError where it cannot be captured."""
    note = progress or silent
    note("capturing", 0, 0)
    captured = capture(model.module, model.inputs).graph_module
    maps = measure_maps(captured, model.inputs)
    convolutions, looked_at = survey(captured), []
    for number, convolution in enumerate(convolutions):
        note("looking at kernels", number, len(convolutions))
        looked_at.append(_inspected(convolution, maps.get(convolution.name)))
    layers = tuple(looked_at)
    totals = {rank: sum(_macs_at(layer, rank) for layer in layers) for rank in SHOWN_RANKS}
    return Inspection(layers, sum(layer.macs for layer in layers), totals)


def _inspected(convolution: Convolution, at: Maps | None) -> Inspected:
    macs = standard_cost(convolution, at).macs or 0
    module, ranks = convolution.module, []
    separable = convolution.obstacle is None and not convolution.pointwise
    if separable and module is not None and at is not None:
        lost = energy_lost(module.weight, "dw-pw")
        for rank in SHOWN_RANKS:
            if rank <= full_rank(convolution.kernel, "dw-pw"):
                after = Separate("dw-pw", rank).cost(convolution, at, bias=False).macs or 0
                ranks.append(AtRank(rank, after, 1 - lost[rank - 1]))
    obstacle = convolution.obstacle or (None if ranks else "not run on these inputs")
    if convolution.obstacle is None and convolution.pointwise:
        obstacle = "1x1: already pointwise"
    return Inspected(convolution.name, convolution.kernel, macs, tuple(ranks), obstacle)


def _macs_at(layer: Inspected, rank: int) -> int:
    """What `convert --rank` would make of it: at most its full rank, and never dearer."""
    reached = [at for at in layer.ranks if at.rank <= rank]
    return min(layer.macs, reached[-1].macs) if reached else layer.macs


def render(found: Inspection) -> Group:
    """A tree of the convolutions that can be separated, with their costs; the others below it by
    their reason. Fits 80 columns."""
    found = printable_tree(found)
    head = (
        f"{len(found.layers)} convolutions, {found.macs:,} MACs an image ({2 * found.macs:,} FLOPs)"
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("kernel")
    table.add_column("MACs", justify="right")
    table.add_column("share", justify="right")
    for rank in SHOWN_RANKS:
        table.add_column(f"rank {rank}", justify="right")
    separable = [layer for layer in found.layers if layer.kept is None]
    opened: list[str] = []
    for layer in separable:
        *parents, last = layer.name.split(".")
        common = 0
        while common < min(len(opened), len(parents)) and opened[common] == parents[common]:
            common += 1
        for depth in range(common, len(parents)):
            table.add_row(*_branch(found, ".".join(parents[: depth + 1]), depth))
        opened = parents
        table.add_row(*_leaf(found, layer, f"{'  ' * len(parents)}{last}"))
    others: dict[str, list[str]] = {}
    for layer in found.layers:
        if layer.kept is not None:
            others.setdefault(layer.kept, []).append(layer.name)
    kept = [Text(f"kept, {reason}: {_some(names)}") for reason, names in others.items()]
    if not separable:
        return Group(Text(head), *kept)
    totals = ", ".join(
        f"{macs:,} at rank {rank} ({macs / max(found.macs, 1):.0%})"
        for rank, macs in found.totals.items()
    )
    key = "rank r: share of the layer's MACs left, kernel energy kept (SVD, dw-pw)"
    return Group(Text(head), Text(key), table, Text(f"all convolutions: {totals}"), *kept)


def _branch(found: Inspection, path: str, depth: int) -> tuple[Text, ...]:
    macs = sum(layer.macs for layer in found.layers if layer.name.startswith(f"{path}."))
    name = f"{'  ' * depth}{path.rpartition('.')[2]}"
    cells = (name, "", f"{macs:,}", f"{macs / max(found.macs, 1):.0%}")
    return tuple(Text(cell, style="dim") for cell in cells)


def _leaf(found: Inspection, layer: Inspected, name: str) -> tuple[Text, ...]:
    kernel = "x".join(map(str, layer.kernel))
    cells = [name, kernel, f"{layer.macs:,}", f"{layer.macs / max(found.macs, 1):.0%}"]
    at = {entry.rank: entry for entry in layer.ranks}
    for rank in SHOWN_RANKS:
        entry = at.get(rank)
        share = entry.macs / max(layer.macs, 1) if entry else 0
        cells.append(f"{share:.0%} {entry.energy_kept:4.0%}" if entry else "-")
    return tuple(Text(cell) for cell in cells)


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
