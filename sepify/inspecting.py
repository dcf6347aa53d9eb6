"""What `sepify inspect` shows: every convolution, its cost, and how separable its kernel is."""

from __future__ import annotations

from rich.table import Table

from sepify.capture import capture
from sepify.factorize.factors import full_rank
from sepify.factorize.svd import svd_error
from sepify.models import LoadedModel
from sepify.planning.costs import measure_maps, separable_cost, standard_cost
from sepify.planning.survey import survey

SHOWN_RANKS = (1, 2, 3)


def inspection_table(model: LoadedModel) -> Table:
    """One row a convolution: kernel, multiply-adds, share, and for ranks 1 to 3 the multiply-adds
    left and the kernel energy kept, as dw-pw. What cannot be separated says why."""
    captured = capture(model.module, model.inputs).graph_module
    convolutions = survey(captured)
    maps = measure_maps(captured, model.inputs)
    costs = {c.name: standard_cost(c, maps.get(c.name)) for c in convolutions}
    total = sum(cost.macs or 0 for cost in costs.values())
    table = Table(
        title=f"{len(convolutions)} convolutions, {total:,} MACs an image ({2 * total:,} FLOPs)",
        caption="rank r: MACs left / kernel energy kept by the SVD, dw-pw",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("layer", overflow="fold")
    table.add_column("kernel", overflow="fold")
    table.add_column("MACs", justify="right")
    for rank in SHOWN_RANKS:
        table.add_column(f"rank {rank}", justify="right", overflow="fold")
    for convolution in convolutions:
        macs = costs[convolution.name].macs
        share = "?" if macs is None else f"{macs:,} {macs / total:4.0%}"
        kernel = "x".join(map(str, convolution.kernel)) or "computed"
        if convolution.obstacle is not None or convolution.module is None:
            table.add_row(convolution.name, kernel, share, convolution.obstacle)
            continue
        cells = []
        for rank in SHOWN_RANKS:
            if macs is None or rank > full_rank(convolution.kernel, "dw-pw"):
                cells.append("-")
                continue
            bias = convolution.module.bias is not None
            cost = separable_cost(convolution, maps[convolution.name], "dw-pw", rank, bias)
            kept = 1 - svd_error(convolution.module.weight, "dw-pw", rank)
            cells.append(f"{(cost.macs or 0) / macs:.2f}x / {kept:.0%}")
        table.add_row(convolution.name, kernel, share, *cells)
    return table
