"""Training and evaluation mode: kept over a block, and carried from one model to another.

Flags are set one by one: the modules that torch.export unlifts refuse `.eval()`, and a frozen
TorchScript module has no mode at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn


def is_training(module: nn.Module) -> bool:
    """Whether `module` is in training mode; a frozen script, which has no mode left, is not."""
    return bool(getattr(module, "training", False))


@contextmanager
def modes_restored(*models: nn.Module) -> Iterator[None]:
    """Every module in `models` has its own mode of before again after the block."""
    modes = {
        module: module.training
        for model in models
        for module in model.modules()
        if hasattr(module, "training")
    }
    try:
        yield
    finally:
        for module, training in modes.items():
            if module.training != training:
                module.training = training


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """The models in evaluation mode within the block, every submodule's own mode restored after."""
    with modes_restored(*models):
        for model in models:
            for module in model.modules():
                if is_training(module):
                    module.training = False
        yield


def modes_of(model: nn.Module) -> dict[str, bool]:
    """The mode of each module, by path."""
    return {path: is_training(module) for path, module in model.named_modules()}


def give_modes(model: nn.Module, modes: Mapping[str, bool], otherwise: bool) -> None:
    """Put each module of `model` into the mode that its path has in `modes`; new ones into
    `otherwise`."""
    for path, module in model.named_modules():
        module.training = modes.get(path, otherwise)
