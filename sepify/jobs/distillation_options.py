"""The options of a distillation at a shell: read, checked, and carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from torch import Tensor, fx, nn

from sepify.distilling import Distillation, Losses, Training, distill
from sepify.distilling.augment import read_augment
from sepify.distilling.checkpoint import Checkpoint
from sepify.distilling.training import Precision
from sepify.errors import UsageError
from sepify.images import Preparation, read_images, read_maybe_labelled
from sepify.judging.heldout import not_held_out
from sepify.process.progress import Progress
from sepify.storage import write_json


@dataclass(frozen=True)
class DistillationOptions:
    """The options as a person gives them; the fields are those of `sepify distill`."""

    data: str | Path
    heldout: str | Path | None = None
    epochs: int = 3
    batch: int = 128
    rate: float | None = None
    temperature: float = 3.0
    layer_weight: float = 1.0
    label_weight: float = 0.1
    augment: str | None = None
    precision: str = "no"
    freeze_batchnorm: bool = False
    freeze_unchanged: bool = False
    patience: int | None = None
    seed: int = 0
    resume: bool = False


@dataclass(frozen=True)
class PreparedDistillation:
    """A distillation whose files are read and whose options are checked."""

    options: DistillationOptions
    data: Tensor | tuple[Tensor, ...]
    heldout: Tensor | None
    losses: Losses
    training: Training
    checkpoint: Path

    def apart_from(self, below: float | None) -> PreparedDistillation:
        """The same without the images that a plan holds out (`Plan.heldout`): a network that has
        learned from them, or was chosen by them, cannot be judged on them."""
        if below is None:
            return self
        data, heldout = self.data, self.heldout
        if isinstance(data, Tensor):
            data = data[not_held_out(data, below)]
        else:
            rest = not_held_out(data[0], below)
            data = tuple(tensor[rest] for tensor in data)
        if heldout is not None:
            heldout = heldout[not_held_out(heldout, below)]
        return replace(self, data=data, heldout=heldout)

    def teach(self, student: fx.GraphModule, teacher: nn.Module, tell: Progress) -> fx.GraphModule:
        """The student, taught; its checkpoint stays until `forget`."""
        augment = self.options.augment
        return distill(
            student,
            teacher=teacher,
            data=self.data,
            heldout=self.heldout,
            epochs=self.options.epochs,
            losses=self.losses,
            training=replace(
                self.training, augment=None if augment is None else read_augment(augment)
            ),
            checkpoint=Checkpoint(self.checkpoint, self.options.resume),
            progress=tell,
        )

    def forget(self) -> None:
        """Remove the checkpoint: what it was for is written."""
        self.checkpoint.unlink(missing_ok=True)


def prepare(
    options: DistillationOptions,
    output: Path,
    preparation: Preparation | None = None,
    shape: Sequence[int] | None = None,
) -> PreparedDistillation:
    """Read and check everything that a distillation needs before the long work begins.

    Its checkpoint lies beside `output`: small.pt has small.distill. `preparation` and the `shape`
    of the networks' input are for data that are pictures.
    """
    if options.epochs < 1:
        raise UsageError(f"--epochs {options.epochs}: there is nothing to do; give 1 or more")
    if options.augment is not None:
        read_augment(options.augment)
    checkpoint = output.with_suffix(".distill")
    if checkpoint.exists() and not options.resume:
        raise UsageError(
            f"{checkpoint} is there from a run that did not end: add --resume to go on with it, or "
            "remove it to start anew"
        )
    losses = Losses(
        temperature=options.temperature, layers=options.layer_weight, labels=options.label_weight
    )
    training = Training(
        batch=options.batch,
        rate=options.rate,
        batchnorm="frozen" if options.freeze_batchnorm else "train",
        unchanged="frozen" if options.freeze_unchanged else "train",
        patience=options.patience,
        mixed_precision=cast(Precision, options.precision),
        seed=options.seed,
    )
    heldout = None
    if options.heldout is not None:
        heldout = read_images(options.heldout, preparation, shape)
    data = read_maybe_labelled(options.data, preparation, shape)
    return PreparedDistillation(options, data, heldout, losses, training, checkpoint)


def describe(taught: fx.GraphModule) -> str:
    """What a distillation brought, in one line."""
    done: Distillation = taught.meta["sepify.distillation"]
    shared = "" if done.processes == 1 else f" in {done.processes} processes"
    return (
        f"distilled{shared}, {len(done.epochs)} epoch(s), {done.epochs[-1].cpu_seconds:.0f} CPU "
        f"seconds; held-out {done.start} -> {done.judgement} (best: epoch {done.best}; "
        f"{done.stopped})"
    )


def save_history(taught: fx.GraphModule, path: Path) -> None:
    """Write the curve of a distillation as JSON: losses, judgements and CPU seconds by epoch."""
    done: Distillation = taught.meta["sepify.distillation"]
    write_json(path, {"format": "sepify-distillation-history", "version": 1, **asdict(done)})
