"""sepify quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.options import (
    CALIBRATION,
    Dump,
    Model,
    Preprocess,
    Shapes,
    Types,
    data_request,
    input_request,
)
from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar

EXAMPLES = (
    "sepify quantize model.pt -o q.pt2 --calibration images.npy",
    "sepify quantize small.pt -o q.pt2 --calibration pictures/ --weights 4",
    "sepify quantize model.pt2 -o q.pt2 --calibration images.npy --keep 'head.*'",
)


def quantize(
    model: Model,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File to write, a .pt2 (torch.export)"),
    ],
    calibration: Annotated[str, CALIBRATION],
    weights: Annotated[
        int,
        typer.Option(
            help="Bits of the weights, 8 or 4; at 4 the depthwise layers, the first and the last "
            "stay at 8"
        ),
    ] = 8,
    keep: Annotated[
        list[str] | None, typer.Option(help="Layers to leave in float32, e.g. 'layer1.*'; repeat")
    ] = None,
    preprocess: Preprocess = None,
    input_shape: Shapes = None,
    dtype: Types = None,
    dump: Dump = None,
) -> Outcome:
    """Put a model, dense or converted, on 8-bit integers; no labels, no training."""
    asked = input_request(input_shape, dtype)
    from sepify.jobs.quantize import QuantisationRequest, quantize_file

    request = QuantisationRequest(
        model=model,
        output=output,
        inputs=asked,
        given=data_request(None, calibration, preprocess),
        weights=weights,
        keep=tuple(keep or ()),
        dump=dump,
    )
    with progress_bar() as progress:
        result = quantize_file(request, progress)
    return Outcome(result.summary, result.to_dict(), result.written)
