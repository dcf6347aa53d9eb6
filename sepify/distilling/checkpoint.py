"""Checkpoints: everything a run needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sepify.distilling.judging import Judgement
from sepify.errors import FileError, UsageError
from sepify.faults import reading
from sepify.storage import decode
from sepify.storage.tensors import read_state, save_state

FORMAT = "sepify-distillation"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The file to save the state of a distillation to, and whether to `resume`: go on from it if it
    is there, to the result of a run without interruption."""

    path: Path | str
    resume: bool = False


@dataclass(frozen=True)
class Epoch:
    """One epoch of the training: mean loss of its batches, the judgement at its end, and the CPU
    seconds of this process from the beginning of the training until then."""

    loss: float
    judgement: Judgement
    cpu_seconds: float


@dataclass
class Position:
    """How far a run is. `batches` are those done in the epoch that is under way, `losses` the sum
    of their losses; `best` is the number of the best epoch, from 1, 0 for the student as given."""

    epoch: int = 0
    batches: int = 0
    step: int = 0
    losses: float = 0.0
    cpu_seconds: float = 0.0
    start: Judgement | None = None
    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0


def layout(network: nn.Module) -> dict[str, list[int]]:
    """The shape of every tensor of a network: two networks of one plan have the same."""
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def digest(network: nn.Module) -> str:
    """A fingerprint of a network's weights."""
    total = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def save_checkpoint(
    path: Path,
    position: Position,
    identity: Mapping[str, Any],
    states: Mapping[str, Any],
) -> None:
    """Write a checkpoint atomically; an older one stays until then.

    Args:
        path: Where to.
        position: How far the run is.
        identity: Which run it belongs to.
        states: The state_dicts of everything that is trained.

    Raises:
        FileError: The file cannot be written.
    """
    document = {
        "format": FORMAT,
        "version": VERSION,
        "identity": dict(identity),
        "position": asdict(position),
        "states": dict(states),
    }
    save_state(document, path)


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> tuple[Position, dict[str, Any]]:
    """Read a checkpoint.

    Returns:
        How far the run was, and the state_dicts.

    Raises:
        FileError: The file is not a checkpoint, or of another version.
        UsageError: It belongs to another run; the message says what differs.
    """
    document = read_state(path)
    if document.get("format") != FORMAT:
        raise FileError(f"{path} is not a checkpoint of a distillation")
    if document.get("version") != VERSION:
        raise FileError(
            f"{path} is a checkpoint of version {document.get('version')}; this sepify reads "
            f"{VERSION}: start anew without it"
        )
    with damaged_checkpoint(path):
        difference = _difference(document["identity"], identity)
        if difference:
            raise UsageError(f"{path} is a checkpoint of another run: {difference}")
        position = decode(Position, document["position"], "position")
        numbers = (position.epoch, position.batches, position.step, position.best)
        if min(numbers) < 0 or position.best > len(position.epochs):
            raise ValueError(f"its position is {numbers}")
        return position, dict(document["states"])


def damaged_checkpoint(path: Path) -> AbstractContextManager[None]:
    """Turn whatever a damaged checkpoint raises while it is loaded into a FileError."""
    return reading(path, "a checkpoint of this sepify", "start anew without it")


def _difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Say in words what differs first between two runs."""
    old, new = there["student"], here["student"]
    for name in sorted({*old, *new}, key=lambda name: (len(name), name)):
        if old.get(name) != new.get(name):
            shapes = [str(tuple(x[name])) if name in x else "absent" for x in (old, new)]
            return (
                f"its plan is another one: '{name}' is {shapes[0]} there and {shapes[1]} in this "
                "student"
            )
    for name, value in here.items():
        if name != "student" and there.get(name) != value:
            if name == "teacher":
                return "its teacher has other weights"
            return f"{name} was {there.get(name)!r} and is {value!r}"
    return None


def on_cpu(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a state_dict on the CPU, which later steps do not change."""
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else value
        for name, value in state.items()
    }
