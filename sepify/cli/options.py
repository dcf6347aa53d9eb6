"""Arguments and options that several commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepify.formats.table import INPUTS

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm
    from sepify.formats.input_note import InputRequest
    from sepify.jobs.data_options import DataRequest

Model = Annotated[str, typer.Argument(help=INPUTS)]
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
    str | None,
    typer.Option(
        help="Labelled test data: a folder with one folder of pictures a class, an .npz with "
        "'images' (n,C,H,W) and 'labels', a Hugging Face dataset on disk, or module:function"
    ),
]
CALIBRATION = typer.Option(
    help="Unlabelled inputs, a few hundred: as --data without the labels, or an .npy (n,C,H,W)"
)
Calibration = Annotated[str | None, CALIBRATION]
Mirror = Annotated[
    bool,
    typer.Option(
        "--mirror",
        help="Calibrate on the mirror images as well: for photographs, not for writing; twice as "
        "long before the refinement",
    ),
]
Holdout = Annotated[
    float | None,
    typer.Option(
        help="Share or number of the calibration images to hold out of everything, to measure "
        "fidelity on; 0 for none. Default: one in eight, at most 128, none of fewer than 64"
    ),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        help="How pictures become inputs: size=256,crop=224,mean=0.485/0.456/0.406,"
        "std=0.229/0.224/0.225, a timm or torchvision config.json, timm:MODEL or "
        "torchvision:WEIGHTS. Default: the input's size, values 0 to 1"
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="module:function of (output, labels) that returns one number an image, instead of "
        "top-1"
    ),
]
Keep = Annotated[
    list[str] | None, typer.Option(help="Convolutions to leave alone, e.g. 'layer1.*'; repeat")
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="One of macs=35%, params=250k, size_mb=1.5, latency=50%@native, accuracy_drop=0.5, "
        "agreement=98%"
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

Device = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of a board that runs our server, to be timed on"),
]
Tracker = Annotated[
    str | None, typer.Option(help="HOST:PORT of TVM's RPC tracker, to time on one of its boards")
]
Key = Annotated[str | None, typer.Option(help="The board's key; default: board")]
Secret = Annotated[
    Path | None, typer.Option(help="File with the secret that the board's server was given")
]
DeviceTarget = Annotated[
    str | None,
    typer.Option(help="What the board is, such as raspberry-pi-4: sepify compile --target list"),
]
Dump = Annotated[
    Path | None, typer.Option(help="New folder to write the graph to before and after every pass")
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


def data_request(
    data: str | None,
    calibration: str | None,
    preprocess: str | None,
    metric: str | None = None,
    mirror: bool = False,
) -> DataRequest:
    """The options that name data, and the command that they stand in."""
    from sepify.jobs.data_options import DataRequest

    command = shlex.join(["sepify", *sys.argv[1:]])
    return DataRequest(data, calibration, preprocess, metric, command, mirror)


def refuse_given(without: str, options: dict[str, object]) -> None:
    """Raise UsageError for an option that says nothing `without` another."""
    for name, value in options.items():
        if value not in (None, False):
            from sepify.errors import UsageError

            raise UsageError(
                f"{name} says nothing without {without}: give that too, or leave it out"
            )


def input_request(shapes: list[str] | None, dtypes: list[str] | None) -> InputRequest:
    """The inputs that --input-shape and --dtype name. Raises UsageError where one says nothing."""
    from sepify.formats.input_note import InputRequest, parse_dtype, parse_shape

    return InputRequest(
        tuple(parse_shape(text) for text in shapes or ()),
        tuple(parse_dtype(text) for text in dtypes or ()),
    )


def board_request(
    device: str | None, tracker: str | None, key: str | None, secret: Path | None
) -> Farm | None:
    """The board that the options name, if any. Raises UsageError where they do not fit."""
    if not (device or tracker or key or secret):
        return None
    from sepify.compiling.device.boards import find_farm

    return find_farm(tracker, key, None if device is None else [device], secret)
