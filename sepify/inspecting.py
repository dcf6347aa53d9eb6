"""What `sepify inspect` shows: every convolution, its cost, and how separable its kernel is."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sepify.capture import capture
from sepify.factorize.factors import full_rank
from sepify.factorize.svd import svd_error
from sepify.models import LoadedModel
from sepify.planning.costs import Maps, measure_maps, separable_cost, standard_cost
from sepify.planning.survey import Convolution, survey

SHOWN_RANKS = (1, 2, 3)


def inspection_table(model: LoadedModel) -> Group:
    """One row a convolution that can be separated: kernel, multiply-adds and their share of all
    convolutions, and for ranks 1 to 3, as dw-pw, the share of multiply-adds left and of kernel
    energy that the SVD keeps. Below it, the others by their reason."""
    captured = capture(model.module, model.inputs).graph_module
    convolutions = survey(captured)
    maps = measure_maps(captured, model.inputs)
    costs = {c.name: standard_cost(c, maps.get(c.name)) for c in convolutions}
    total = sum(cost.macs or 0 for cost in costs.values())
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("kernel")
    table.add_column("MACs", justify="right")
    table.add_column("share", justify="right")
    for rank in SHOWN_RANKS:
        table.add_column(f"rank {rank}", justify="right")
    others: dict[str, list[str]] = {}
    for convolution in convolutions:
        if convolution.obstacle is not None or convolution.module is None:
            others.setdefault(convolution.obstacle or "", []).append(convolution.name)
            continue
        macs = costs[convolution.name].macs or 0
        cells = [_cell(convolution, maps.get(convolution.name), macs, rank) for rank in SHOWN_RANKS]
        kernel = "x".join(map(str, convolution.kernel))
        table.add_row(convolution.name, kernel, f"{macs:,}", f"{macs / total:.0%}", *cells)
    head = (
        f"{len(convolutions)} convolutions, {total:,} MACs an image ({2 * total:,} FLOPs)\n"
        "rank r: share of the layer's MACs left, kernel energy kept (SVD, dw-pw)"
    )
    kept = [Text(f"kept, {reason}: {_some(names)}") for reason, names in others.items()]
    return Group(Text(head), *([table] if table.row_count else []), *kept)


def _cell(convolution: Convolution, at: Maps | None, macs: int, rank: int) -> str:
    assert convolution.module is not None
    if at is None or rank > full_rank(convolution.kernel, "dw-pw"):  # None: not run at all
        return "-"
    after = separable_cost(convolution, at, "dw-pw", rank, bias=False).macs or 0
    kept = 1 - svd_error(convolution.module.weight, "dw-pw", rank)
    return f"{after / macs:.0%} {kept:4.0%}"


def _some(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
