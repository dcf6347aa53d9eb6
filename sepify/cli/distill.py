"""sepify distill."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sepify.cli.options import (
    Augment,
    Epochs,
    Preprocess,
    Resume,
    Shapes,
    Types,
    input_request,
)
from sepify.cli.outcome import Outcome
from sepify.cli.progress import progress_bar
from sepify.formats.table import INPUTS, OUTPUTS

EXAMPLES = (
    "sepify distill small.pt --teacher model.pt --data images.npy -o better.pt",
    "sepify distill small.pt --teacher model.pt --data train.npz -o better.pt --epochs 20 "
    "--augment shift=4,mirror --resume",
    "accelerate launch -m sepify distill small.pt --teacher model.pt --data images.npy "
    "-o better.pt --precision bf16",
)


def distill(
    student: Annotated[str, typer.Argument(help=f"The converted model: {INPUTS}")],
    teacher: Annotated[str, typer.Option(help=f"The original: {INPUTS}")],
    data: Annotated[
        str,
        typer.Option(
            help="Images to learn from, with labels or without: a folder of pictures, .npy, .npz "
            "with 'images', a Hugging Face dataset on disk, or module:function"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help=f"File to write: {OUTPUTS}")],
    epochs: Epochs = 3,
    heldout: Annotated[
        str | None, typer.Option(help="Images to judge by; without, one in eight of the data")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images at a time, over all processes")] = 128,
    rate: Annotated[float | None, typer.Option(help="Peak rate of AdamW, 0.002 if none")] = None,
    temperature: Annotated[float, typer.Option(help="Of the soft targets")] = 3.0,
    layer_weight: Annotated[
        float, typer.Option(help="Weight of layer-wise matching at the start; 0 switches it off")
    ] = 1.0,
    label_weight: Annotated[
        float, typer.Option(help="Weight of cross-entropy with labels; 0 switches it off")
    ] = 0.1,
    preprocess: Preprocess = None,
    augment: Augment = None,
    precision: Annotated[str, typer.Option(help="no, bf16 or fp16")] = "no",
    freeze_batchnorm: Annotated[
        bool, typer.Option("--freeze-batchnorm", help="Keep BatchNorm's statistics as they are")
    ] = False,
    freeze_unchanged: Annotated[
        bool,
        typer.Option(
            "--freeze-unchanged", help="Train only what is rewritten or comes after it: faster"
        ),
    ] = False,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs that bring nothing")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of order, augmentation and dropout")] = 0,
    resume: Resume = False,
    input_shape: Shapes = None,
    dtype: Types = None,
) -> Outcome:
    """Let the original network teach a converted one; labels are optional.

    Runs in several processes or on several machines under `accelerate launch -m sepify distill`.
    """
    asked = input_request(input_shape, dtype)
    from sepify.jobs.distill import DistillationRequest, distill_file
    from sepify.jobs.distillation_options import DistillationOptions

    options = DistillationOptions(
        data=data,
        heldout=heldout,
        epochs=epochs,
        batch=batch,
        rate=rate,
        temperature=temperature,
        layer_weight=layer_weight,
        label_weight=label_weight,
        augment=augment,
        precision=precision,
        freeze_batchnorm=freeze_batchnorm,
        freeze_unchanged=freeze_unchanged,
        patience=patience,
        seed=seed,
        resume=resume,
    )
    request = DistillationRequest(student, teacher, output, options, asked, preprocess)
    with progress_bar() as progress:
        result = distill_file(request, progress)
    facts = {"summary": result.summary, "written": [str(path) for path in result.written]}
    return Outcome(result.summary, facts, result.written)
