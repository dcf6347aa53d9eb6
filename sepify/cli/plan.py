"""sepify plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.console import list_written, out
from sepify.cli.options import (
    Budget,
    Data,
    Keep,
    Model,
    Resolution,
    Shapes,
    Style,
    Types,
    Width,
    input_request,
)
from sepify.cli.progress import progress_bar

EXAMPLES = (
    "sepify plan model.pt --calibration images.npy --budget macs=35% -o plan.json",
    "sepify plan model.pt --calibration images.npy --frontier",
)


def plan(
    model: Model,
    calibration: Annotated[
        Path, typer.Option(help="Unlabelled inputs (n,C,H,W): .npy, or .npz with 'images'")
    ],
    budget: Budget = None,
    frontier: Annotated[
        bool, typer.Option(help="The whole curve of cost against loss instead of one plan")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="plan.json; with --frontier its JSON")
    ] = None,
    style: Style = None,
    width: Width = None,
    resolution: Resolution = None,
    keep: Keep = None,
    data: Data = None,
    measurements: Annotated[
        Path | None, typer.Option(help="JSON of what was measured: read if there, else written")
    ] = None,
    latency_table: Annotated[
        Path | None, typer.Option(help="JSON of latencies: gone on from if there, then written")
    ] = None,
    input_shape: Shapes = None,
    dtype: Types = None,
) -> None:
    """Choose order and rank of each convolution for a budget."""
    from sepify.plan_files import PlanningRequest, plan_file

    request = PlanningRequest(
        model=model,
        inputs=input_request(input_shape, dtype),
        calibration=calibration,
        budget=budget,
        frontier=frontier,
        output=output,
        style=style,
        width=width,
        resolution=resolution,
        keep=tuple(keep or ()),
        data=data,
        measurements=measurements,
        latency_table=latency_table,
    )
    with progress_bar() as progress:
        result = plan_file(request, progress)
    out.print(result.summary)
    list_written(result.written)
