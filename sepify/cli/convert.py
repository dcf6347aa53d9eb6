"""sepify convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.options import (
    Augment,
    Budget,
    Calibration,
    Data,
    Device,
    DeviceTarget,
    Dump,
    Holdout,
    Keep,
    Key,
    Metric,
    Mirror,
    Model,
    Preprocess,
    Resolution,
    Resume,
    Secret,
    Shapes,
    Style,
    Tracker,
    Types,
    Width,
    board_request,
    data_request,
    input_request,
    refuse_given,
)
from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar
from sepify.formats.table import OUTPUTS

EXAMPLES = (
    "sepify convert model.pt -o small.pt --rank 2 --calibration images.npy",
    "sepify convert model.pt -o small.pt --plan edited.json --calibration images.npy",
    "sepify convert model.pt -o small.pt --calibration images.npy --distill train.npy --epochs 10",
    "sepify convert model.pt2 -o small.onnx --rank 2 --calibration images.npy",
    "sepify convert model.pt -o small.pt2 --precision int8 --calibration images.npy",
    "sepify convert model.pt -o small.pt --style mobilenet --width 0.75 --calibration images.npy",
)


def convert(
    model: Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help=f"File to write: {OUTPUTS}",
        ),
    ],
    rank: Annotated[
        int | None, typer.Option(help="Separable terms a channel, from 1 (default)")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            help="dw-pw, pw-dw, bottleneck or spatial everywhere (default: what suits each layer)"
        ),
    ] = None,
    style: Style = None,
    width: Width = None,
    resolution: Resolution = None,
    keep: Keep = None,
    budget: Budget = None,
    plan: Annotated[Path | None, typer.Option(help="Carry out this plan.json instead")] = None,
    calibration: Calibration = None,
    mirror: Mirror = False,
    precision: Annotated[
        str | None,
        typer.Option(
            help="float32 (default), float16, bfloat16, int8, or W4A8 (4-bit weights, activations "
            "of 8); the last two are written as .pt2"
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="least-squares (default) or svd, of the weights alone")
    ] = None,
    memory: Annotated[
        float, typer.Option(help="GiB for calibration; what is beyond goes to a temporary file")
    ] = 4.0,
    refine: Annotated[
        bool,
        typer.Option(
            help="Improve the solved weights block by block by gradient steps: 400 steps of 16 "
            "images for each part of a block, however many images there are, so on a small network "
            "it is nearly all of the time"
        ),
    ] = True,
    holdout: Holdout = None,
    data: Data = None,
    preprocess: Preprocess = None,
    metric: Metric = None,
    distill: Annotated[
        str | None,
        typer.Option(
            help="Images that the original then teaches the converted model on, as --data, labels "
            "or none; finer settings: sepify distill"
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes of the distillation over its images, 3 by default")
    ] = None,
    augment: Augment = None,
    resume: Resume = False,
    report: Annotated[bool, typer.Option(help="Also write OUTPUT's .report.json and .html")] = True,
    device: Device = None,
    tracker: Tracker = None,
    key: Key = None,
    secret: Secret = None,
    device_target: DeviceTarget = None,
    input_shape: Shapes = None,
    dtype: Types = None,
    dump: Dump = None,
) -> Outcome:
    """Rewrite a model's convolutions into depthwise + pointwise ones."""
    asked = input_request(input_shape, dtype)
    if distill is None:
        refuse_given("--distill", {"--epochs": epochs, "--augment": augment, "--resume": resume})
    from sepify.jobs.convert import ConversionRequest, convert_file
    from sepify.jobs.distillation_options import DistillationOptions

    training = None
    if distill is not None:
        training = DistillationOptions(
            distill, epochs=3 if epochs is None else epochs, augment=augment, resume=resume
        )
    request = ConversionRequest(
        model=model,
        output=output,
        inputs=asked,
        rank=rank,
        form=form,
        style=style,
        width=width,
        resolution=resolution,
        keep=tuple(keep or ()),
        budget=budget,
        plan=plan,
        precision=precision,
        method=method,
        memory=memory,
        refine=refine,
        holdout=holdout,
        given=data_request(data, calibration, preprocess, metric, mirror),
        distill=training,
        report=report,
        farm=board_request(device, tracker, key, secret),
        device_target=device_target,
        dump=dump,
    )
    with progress_bar() as progress:
        result = convert_file(request, progress)
    return Outcome(result.summary, result.to_dict(), result.written)
