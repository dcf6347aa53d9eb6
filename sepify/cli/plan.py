"""sepify plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.options import (
    CALIBRATION,
    Budget,
    Data,
    Device,
    Holdout,
    Keep,
    Key,
    Model,
    Preprocess,
    Resolution,
    Secret,
    Shapes,
    Style,
    Tracker,
    Types,
    Width,
    board_request,
    data_request,
    input_request,
)
from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar

EXAMPLES = (
    "sepify plan model.pt --calibration images.npy --budget macs=35% -o plan.json",
    "sepify plan model.pt --calibration images.npy --frontier",
    "sepify plan model.pt --calibration images.npy --budget latency=50%@raspberry-pi-4 "
    "--device 192.168.1.20:9090 --secret secret.txt -o plan.json",
)


def plan(
    model: Model,
    calibration: Annotated[str, CALIBRATION],
    budget: Budget = None,
    frontier: Annotated[
        bool, typer.Option(help="The whole curve of cost against loss instead of one plan")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="plan.json; with --frontier its JSON; - is stdout"),
    ] = None,
    style: Style = None,
    width: Width = None,
    resolution: Resolution = None,
    keep: Keep = None,
    holdout: Holdout = None,
    data: Data = None,
    preprocess: Preprocess = None,
    measurements: Annotated[
        Path | None, typer.Option(help="JSON of what was measured: read if there, else written")
    ] = None,
    latency_table: Annotated[
        Path | None, typer.Option(help="JSON of latencies: gone on from if there, then written")
    ] = None,
    device: Device = None,
    tracker: Tracker = None,
    key: Key = None,
    secret: Secret = None,
    input_shape: Shapes = None,
    dtype: Types = None,
) -> Outcome:
    """Choose order and rank of each convolution for a budget."""
    asked = input_request(input_shape, dtype)
    from sepify.jobs.plan import PlanningRequest, plan_file

    request = PlanningRequest(
        model=model,
        inputs=asked,
        budget=budget,
        frontier=frontier,
        output=output,
        style=style,
        width=width,
        resolution=resolution,
        keep=tuple(keep or ()),
        given=data_request(data, calibration, preprocess),
        holdout=holdout,
        measurements=measurements,
        latency_table=latency_table,
        farm=board_request(device, tracker, key, secret),
    )
    with progress_bar() as progress:
        result = plan_file(request, progress)
    return Outcome(result.summary, result.facts, result.written)
