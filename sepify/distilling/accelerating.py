"""The one place that knows Accelerate: devices, processes, mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from sepify.distilling.training import Training
from sepify.errors import DependencyError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def accelerator_for(training: Training) -> Iterator[Accelerator]:
    """Accelerate with the settings of one training. Its state is the process's own: it is put back
    afterwards, unless somebody else had set it up before.

    Raises DependencyError if Accelerate or torchmetrics is missing, UsageError if the process
    already runs in another precision or this machine cannot run in the one asked for.
    """
    try:
        import torchmetrics  # noqa: F401  (wanted only later: say so now)
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, is_initialized
        from accelerate.utils import DataLoaderConfiguration
    except ImportError as error:
        raise DependencyError(
            f"distillation needs {error.name}: pip install 'sepify[distill]'"
        ) from error
    except RuntimeError as error:  # torchmetrics loads torchvision wherever there is one
        raise DependencyError(
            f"torchmetrics cannot be loaded ({error}): is there a torchvision that was built for "
            "another torch? Install the one that fits, or none"
        ) from error
    found = is_initialized()
    try:
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # processes on CPUs find each other only so
            mixed_precision=training.mixed_precision,
            gradient_accumulation_steps=training.accumulate,
            dataloader_config=DataLoaderConfiguration(split_batches=True),
        )
    except ValueError as error:
        raise UsageError(f"mixed_precision={training.mixed_precision!r}: {error}") from error
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        if not found:
            AcceleratorState._reset_state()
