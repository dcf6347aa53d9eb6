"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sepify.models import InputRequest

Model = Annotated[str, typer.Argument(help="A .pt or .pt2 file, or module:factory")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        help="Shape of an input, batch first, such as 1,3,224,224; repeat for several inputs. "
        "Files that sepify wrote know theirs.",
    ),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--dtype",
        help="Type of the inputs, such as float16 or bfloat16, default float32; repeat for several "
        "inputs of different types.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(help="Labelled test data: .npz with arrays 'images' (n,C,H,W) and 'labels' (n)"),
]
Keep = Annotated[
    list[str] | None, typer.Option(help="Convolutions to leave alone, e.g. 'layer1.*'; repeat")
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="One of macs=35%, params=250k, size_mb=1.5, latency=50%@native, accuracy_drop=0.5"
    ),
]
Style = Annotated[
    str | None,
    typer.Option(
        help="linear (default), or mobilenet or mobilenet-relu6: BatchNorm and ReLU or ReLU6 "
        "between depthwise and pointwise, which needs training afterwards"
    ),
]
Width = Annotated[
    float | None,
    typer.Option(
        help="Share of every layer's channels to keep, such as 0.75, rounded to multiples of 8; "
        "needs training afterwards"
    ),
]
Resolution = Annotated[
    float | None,
    typer.Option(help="Of the images: a share such as 0.714, or pixels of the shorter side"),
]

Epochs = Annotated[int, typer.Option(help="Passes of the distillation over its images")]
Augment = Annotated[
    str | None,
    typer.Option(
        help="Images a little otherwise each time: shift=PIXELS, mirror, or both, by comma"
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the distillation of a run that did not end")
]


def input_request(shapes: list[str] | None, dtypes: list[str] | None) -> InputRequest:
    """The inputs that --input-shape and --dtype name. Raises UsageError where one says nothing."""
    from sepify.models import InputRequest, parse_dtype, parse_shape

    return InputRequest(
        tuple(parse_shape(text) for text in shapes or ()),
        tuple(parse_dtype(text) for text in dtypes or ()),
    )
