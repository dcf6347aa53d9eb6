"""A training of four epochs with dropout and augmentation, in a process of its own:

    python long_work.py CHECKPOINT OUTPUT KILL_AT

After so many batches it kills itself as `kill -9` does; 0: never. Imported by the tests as well.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from distilling.students import Dropping, pictures, student, teacher
from torch import fx

import sepify
from sepify.distilling import Training, shift_and_mirror
from sepify.storage.tensors import save_state

SETTINGS = Training(batch=32, rate=5e-3, ema=0.9, save_every=0, augment=shift_and_mirror(1))


def train(checkpoint: Path, kill_at: int = 0, **options) -> fx.GraphModule:
    """Train, saving after every batch; go on from `checkpoint` if it is there."""

    def told(_what: str, done: int, _total: int) -> None:
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    network = teacher(Dropping())
    given = {
        "teacher": network,
        "data": pictures(160),
        "epochs": 4,
        "training": SETTINGS,
        "checkpoint": sepify.Checkpoint(checkpoint, options.pop("resume", True)),
        "progress": told,
        **options,
    }
    return sepify.distill(student(network), **given)


if __name__ == "__main__":
    result = train(Path(sys.argv[1]), int(sys.argv[3]))
    save_state(result.state_dict(), sys.argv[2])
