"""One training from its first step, or from a checkpoint, to its last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from sepify.distilling.checkpoint import Epoch, Position, on_cpu, save_checkpoint
from sepify.distilling.data import Batch, Material, mixed
from sepify.distilling.judging import Judgement, judge
from sepify.distilling.pair import DistillationPair
from sepify.distilling.training import (
    Training,
    freeze_batchnorm,
    make_average,
    make_optimizer,
    rate_at,
)
from sepify.distilling.unchanged import freeze_unchanged
from sepify.errors import DistillationError, InputError, SepifyError, UsageError
from sepify.faults import told
from sepify.process.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator

Finish = Callable[[Mapping[str, Tensor]], fx.GraphModule]


@dataclass(frozen=True)
class Keeping:
    """Where checkpoints go, None for nowhere; which run they are of; how weights become a student,
    for an error to carry."""

    path: Path | None
    identity: Mapping[str, Any]
    finish: Finish


class Run:
    """The state of a training. Everything random is drawn from the seed and the place in the
    training, so that a resumed run draws what an uninterrupted one would have drawn."""

    def __init__(
        self,
        accelerator: Accelerator,
        pair: DistillationPair,
        material: Material,
        training: Training,
        epochs: int,
        progress: Progress | None,
        keeping: Keeping,
    ) -> None:
        self.accelerator = accelerator
        self.training = training
        self.material = material
        self.epochs = epochs
        self.keeping = keeping
        self.progress = progress if accelerator.is_main_process else None
        self.channels_last = all(p.dim() != 5 for p in pair.parameters())
        if self.channels_last:  # half to two thirds of the time of a step on a CPU
            pair.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pair = pair.to(accelerator.device)
        self.still = freeze_unchanged(pair.learner) if training.unchanged == "frozen" else ()
        optimizer = make_optimizer(pair.learner, training)
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.model, self.optimizer = accelerator.prepare(pair, optimizer)
        self.loader = material.loader
        if isinstance(self.loader, DataLoader):
            self.loader = _prepared(accelerator, self.loader)
        self.average = None if training.ema is None else make_average(pair.learner, training.ema)
        self.steps = epochs * math.ceil(len(self.loader) / training.accumulate)
        self.position = Position()
        self.best_weights = self._weights()
        self.begun = time.process_time()
        self.saved = time.monotonic()

    def restore(self, position: Position, states: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.position = position
        self.pair.learner.load_state_dict(states["student"])
        self.optimizer.load_state_dict(states["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(states["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(states["scaler"])
        self.best_weights = states["best"]
        self.begun = time.process_time() - position.cpu_seconds

    def to_the_end(self) -> str:
        """Train; the reason why it ended. Raises DistillationError, with the best student yet."""
        position = self.position
        if position.start is None:
            position.start = self._judge()
        while position.epoch < self.epochs:
            patience = self.training.patience
            if patience is not None and position.epoch - position.best >= patience:
                return f"no better in {patience} epoch(s)"
            self._epoch()
        return "all epochs done"

    def _epoch(self) -> None:
        position = self.position
        self._train_mode()
        for inputs, labels in self._batches():
            position.losses += self._step(inputs, labels)
            position.batches += 1
            self._tell()
            due = time.monotonic() - self.saved > self.training.save_every
            if due and self.accelerator.sync_gradients:  # gradients half summed up are not saved
                self._save()
        judgement = self._judge()
        position.cpu_seconds = time.process_time() - self.begun
        loss = position.losses / max(1, position.batches)
        position.epochs.append(Epoch(loss, judgement, position.cpu_seconds))
        position.epoch, position.batches, position.losses = position.epoch + 1, 0, 0.0
        if judgement.distance < self._best().distance:
            position.best = position.epoch
            self.best_weights = self._weights()
        self._save()

    def _batches(self) -> Iterator[tuple[Batch, Tensor | None]]:
        """What is left of the epoch, augmented. Seeds torch, NumPy and Python as the epoch begins,
        for loaders that draw from those."""
        from accelerate.utils import set_seed

        set_seed(mixed(self.training.seed, self.position.epoch) % 2**32)
        batches = self._rest_of_epoch()
        while True:
            try:
                batch = next(batches)
                inputs, labels = self.material.split(batch)
                inputs = self._augmented(inputs)
            except StopIteration:
                return
            except SepifyError as error:
                raise self._stopped(str(error)) from error
            except Exception as error:  # the loader is the user's: it raises whatever it likes
                raise self._stopped(f"the data failed: {told(error)}") from error
            if self.channels_last:
                inputs = tuple(
                    t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
                    for t in inputs
                )
            yield inputs, labels

    def _rest_of_epoch(self) -> Iterator[Any]:
        """This process's part of every batch that is not done yet, on the device."""
        position, accelerator, loader = self.position, self.accelerator, self.loader
        if not isinstance(loader, DataLoader):  # not one that Accelerate can split
            part = slice(accelerator.process_index, None, accelerator.num_processes)
            for batch in islice(iter(loader), position.batches, None):
                yield tree_map(lambda tensor: tensor[part].to(accelerator.device), batch)
            return
        if position.batches:
            loader = accelerator.skip_first_batches(loader, position.batches)
        loader.set_epoch(position.epoch)
        if self.material.sampler is not None:
            self.material.sampler.set_epoch(position.epoch)
        yield from loader

    def _augmented(self, inputs: Batch) -> Batch:
        if self.training.augment is None:
            return inputs
        generator = torch.Generator().manual_seed(mixed(self.training.seed, *self._place()))
        images = self.training.augment(inputs[0] if len(inputs) == 1 else inputs, generator)
        return (images,) if isinstance(images, Tensor) else tuple(images)

    def _place(self) -> tuple[int, int, int]:
        return self.position.epoch, self.position.batches, self.accelerator.process_index

    def _step(self, inputs: Batch, labels: Tensor | None) -> float:
        """Learn from one batch; its loss, over all processes. Raises DistillationError."""
        position, accelerator, optimizer = self.position, self.accelerator, self.optimizer
        torch.manual_seed(mixed(self.training.seed, *self._place()))  # for dropout
        self.pair.set_progress(position.step / self.steps)
        for group, peak in zip(optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate_at(position.step, self.steps, self.training.warmup)
        with accelerator.accumulate(self.model):
            try:
                loss = self.model(*inputs, labels=labels)
            except InputError as error:
                raise self._stopped(str(error)) from error
            except SepifyError:
                raise
            except Exception as error:  # whatever the networks say to a batch that does not fit
                shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
                why = f"a batch of {shapes} does not go through the networks: {told(error)}"
                raise self._stopped(why) from error
            total = float(accelerator.reduce(loss.detach(), "mean"))
            if not math.isfinite(total):
                raise self._stopped(f"the loss became {total}; {_advice(inputs)}")
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                clip = math.inf if self.training.clip is None else self.training.clip
                norm = accelerator.clip_grad_norm_(self.model.parameters(), clip)
                # with a scaler, which skips such a step, it is no mishap
                if accelerator.scaler is None and not torch.isfinite(norm):
                    raise self._stopped(f"the gradients became {norm}; {_advice(inputs)}")
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            position.step += 1
            if self.average is not None:
                self.average.update_parameters(self.pair.learner)
        return total

    def _train_mode(self) -> None:
        self.model.train()
        if self.training.batchnorm == "frozen":
            freeze_batchnorm(self.pair.learner)
        for module in self.still:
            module.eval()

    @property
    def _judged(self) -> nn.Module:
        """The network that is judged and kept: the average of the weights, or the weights."""
        return self.pair.learner if self.average is None else self.average.module

    def _weights(self) -> dict[str, Tensor]:
        return on_cpu(self._judged.state_dict())

    def _judge(self) -> Judgement:
        heldout, accelerator = self.material.heldout, self.accelerator
        who = (accelerator.process_index, accelerator.num_processes)
        return judge(self.pair, self._judged, heldout, *who)

    def _best(self) -> Judgement:
        position = self.position
        assert position.start is not None
        return position.epochs[position.best - 1].judgement if position.best else position.start

    def _tell(self) -> None:
        if self.progress is None:
            return
        position = self.position
        now = position.epochs[-1].judgement if position.epochs else position.start
        loss = position.losses / position.batches
        what = f"distilling, epoch {position.epoch + 1}/{self.epochs}: loss {loss:.3g}, {now}"
        batches = len(self.loader)
        self.progress(what, position.epoch * batches + position.batches, self.epochs * batches)

    def _save(self) -> None:
        self.saved = time.monotonic()
        path, accelerator = self.keeping.path, self.accelerator
        if path is None or not accelerator.is_main_process:
            return
        self.position.cpu_seconds = time.process_time() - self.begun
        states = {
            "student": self.pair.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
            "best": self.best_weights,
        }
        save_checkpoint(path, self.position, self.keeping.identity, states)

    def _stopped(self, why: str) -> DistillationError:
        """The error for what went wrong in this place: what is left of the work, and where."""
        position, path = self.position, self.keeping.path
        where = f"epoch {position.epoch + 1}, batch {position.batches + 1}"
        kept = "no checkpoint was asked for"
        if path is not None:
            kept = f"the last good state is in {path}" if path.is_file() else "nothing was saved"
        best = f"epoch {position.best}" if position.best else "the start"
        return DistillationError(
            f"{where}: {why} ({kept}; the best student so far, of {best}, comes with this error)",
            self.keeping.finish(self.best_weights),
        )


def _prepared(accelerator: Accelerator, loader: DataLoader[Any]) -> DataLoader[Any]:
    try:
        prepared: DataLoader[Any] = accelerator.prepare(loader)
    except ValueError as error:
        raise UsageError(
            f"a batch of {loader.batch_size} cannot be shared out among "
            f"{accelerator.num_processes} process(es): {error}"
        ) from error
    return prepared


def _advice(inputs: Batch) -> str:
    if all(bool(torch.isfinite(tensor).all()) for tensor in inputs):
        return "a lower rate, or clip, may help"
    return "the images of this batch hold NaN or infinity"
