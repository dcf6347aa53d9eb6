"""distill(): the original network teaches the converted one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from sepify.capture import Model
from sepify.distilling.accelerating import accelerator_for
from sepify.distilling.checkpoint import (
    Checkpoint,
    Epoch,
    damaged_checkpoint,
    digest,
    layout,
    load_checkpoint,
)
from sepify.distilling.data import Source, gather
from sepify.distilling.judging import Judgement
from sepify.distilling.losses import Losses, TaskLoss
from sepify.distilling.pair import DistillationPair
from sepify.distilling.run import Keeping, Run
from sepify.distilling.training import Training
from sepify.errors import DistillationWarning, InputError, UsageError
from sepify.judging.heldout import not_held_out
from sepify.process.progress import Progress, guarded
from sepify.process.renamed import renamed
from sepify.process.state import keeps_process_state
from sepify.storage import require_writable


@dataclass(frozen=True)
class Distillation:
    """What `distill` did; found as `student.meta["sepify.distillation"]`.

    `start` judges the student as it was given; `best` is the number of the epoch whose weights
    were kept, from 1, or 0 for those at the start; `matched` are the layers that were compared;
    `processes` shared the work.
    """

    start: Judgement
    epochs: tuple[Epoch, ...]
    best: int
    stopped: str  # why the training ended
    matched: tuple[str, ...]
    processes: int

    @property
    def judgement(self) -> Judgement:
        """How well the weights that were kept did on the held-out images."""
        return self.epochs[self.best - 1].judgement if self.best else self.start


@renamed(
    augment="training=Training(augment=...)", resume="checkpoint=Checkpoint(path, resume=True)"
)
@keeps_process_state
def distill(
    student: fx.GraphModule,
    *,
    teacher: Model,
    data: Source,
    epochs: int = 3,
    heldout: Source | None = None,
    losses: Losses | None = None,
    loss: TaskLoss | None = None,
    training: Training | None = None,
    checkpoint: Checkpoint | Path | str | None = None,
    progress: Progress | None = None,
) -> fx.GraphModule:
    """Train a converted network to answer as its original does; labels are optional.

    Args:
        student: what `sepify.convert` returned; it is not changed.
        teacher: the original, in any form that `convert` takes; it is not changed either.
        data: images `(n, C, H, W)`; a tuple of images and labels; a Dataset; or a loader of such
            batches, which needs a length.
        epochs: passes over the data, from 1.
        heldout: images to judge by, in any of those forms, of which at most 1,024 are used; without
            them one in eight is set aside (from a loader: its first batches).
        losses: the parts of the loss, their weights, the temperature.
        loss: loss(student's output, teacher's, labels) -> scalar, instead of soft targets, for
            networks that do not return class scores.
        training: batch, optimiser, rate, average, augmentation, precision, seed.
        checkpoint: where to save the state, every epoch and every five minutes, and whether to go
            on from it.
        progress: called as progress(what, batches done, batches in all) as the work goes on.

    Returns:
        A copy of `student`, in its mode, with the weights of the epoch that the held-out images
        found best; `.meta` as it was, but for the fidelity, which is to be measured again; and a
        `Distillation` in `.meta["sepify.distillation"]`. It runs where Accelerate says: on a GPU if
        there is one, and in several processes or on several machines under `accelerate launch`.

    Raises:
        SepifyError: DistillationError, with the best student so far in it, for what goes wrong on
            the way (a loss that is not finite, a loader that raises).
    """
    losses, training = losses or Losses(), training or Training()
    if epochs < 1:
        raise UsageError(f"epochs={epochs}: there is nothing to do; give 1 or more")
    if not isinstance(student, fx.GraphModule):
        raise InputError(
            f"the student is a {type(student).__name__}: give the GraphModule that "
            "sepify.convert returned"
        )
    width = getattr(getattr(student.meta.get("sepify"), "plan", None), "width", 1.0)
    if training.unchanged == "frozen" and width < 1:
        raise UsageError(
            f"unchanged='frozen': a student of width {width:g} is changed from its first layer on"
        )
    path = _checkpoint_path(checkpoint)

    def finish(weights: Mapping[str, Tensor]) -> fx.GraphModule:
        result = copy.deepcopy(student)
        result.load_state_dict(weights, strict=False)  # modules that no node calls stay as they are
        return result

    with accelerator_for(training) as accelerator:
        material = gather(data, heldout, _inputs(student), training.batch, training.seed)
        pair = DistillationPair(
            copy.deepcopy(student), teacher, material.heldout[0], losses=losses, loss=loss
        )
        if losses.layers and not pair.matched:
            warnings.warn(
                "no layer of the student can be matched with one of the teacher: it learns from "
                "the outputs alone",
                DistillationWarning,
                stacklevel=4,
            )
        identity = {
            "student": layout(pair.learner),
            "teacher": digest(pair.teacher),
            "epochs": epochs,
            "batches an epoch": len(material.loader),
            "loss": _name(loss),
            **asdict(losses),
            **asdict(replace(training, augment=None, save_every=0.0)),
            "augment": _name(training.augment),
        }
        keeping = Keeping(path, identity, finish)
        note = guarded(progress)
        run = Run(accelerator, pair, material, training, epochs, note, keeping)
        if path is not None and path.is_file():
            position, states = load_checkpoint(path, identity)
            with damaged_checkpoint(path):
                run.restore(position, states)
        stopped, processes = run.to_the_end(), accelerator.num_processes
    result, position = finish(run.best_weights), run.position
    assert position.start is not None
    result.meta["sepify.distillation"] = Distillation(
        position.start,
        tuple(position.epochs),
        position.best,
        stopped,
        pair.matched,
        processes,
    )
    if "sepify" in result.meta:
        result.meta["sepify"] = _to_be_judged(result.meta["sepify"], [data, heldout])
    return result


def _to_be_judged(made: Any, used: Sequence[Source | None]) -> Any:
    """The `Conversion` without what was measured before the training. That images are held out
    stays true only where they are known not to be among those `used`."""
    below = made.plan.heldout
    apart = below is None or all(_is_apart(data, below) for data in used if data is not None)
    return replace(
        made,
        plan=made.plan if apart else replace(made.plan, heldout=None),
        fidelity=None,
        warnings=(),
        unjudged="it was distilled after it was measured",
    )


def _is_apart(data: Source, below: float) -> bool:
    """Whether these are images in memory, and none of them is held out."""
    tensors = (data,) if isinstance(data, Tensor) else data
    if not isinstance(tensors, tuple) or not isinstance(tensors[0], Tensor):
        return False
    return bool(not_held_out(tensors[0], below).all())


def _checkpoint_path(checkpoint: Checkpoint | Path | str | None) -> Path | None:
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)
    path = Path(checkpoint.path)
    require_writable(path.parent)
    if path.exists() and not checkpoint.resume:
        raise UsageError(f"{path} is there already: resume it, or remove it to start anew")
    return path


def _inputs(student: fx.GraphModule) -> int:
    """How many inputs the network needs: those that have no default."""
    placeholders = [node for node in student.graph.nodes if node.op == "placeholder"]
    return sum(1 for node in placeholders if not node.args)


def _name(function: Callable[..., Any] | None) -> str | None:
    if function is None:
        return None
    return getattr(function, "__qualname__", type(function).__qualname__)
