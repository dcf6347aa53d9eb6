"""How far each layer's output really moved inside the converted network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sepify.graph.running import Inputs

IMAGES = 128  # at most; a few hundred values of each channel and image are plenty
BATCH = 8  # both networks' outputs of every separated layer are held for one batch


@dataclass
class _Sums:
    """Sums for each channel, of the original's output and of the squared difference."""

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))
    differences: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, before: Tensor, after: Tensor) -> None:
        y = before.double().transpose(0, 1).flatten(1)
        gap = y - after.double().transpose(0, 1).flatten(1)
        self.count += y.shape[1]
        self.total = self.total + y.sum(1)
        self.squares = self.squares + y.square().sum(1)
        self.differences = self.differences + gap.square().sum(1)

    @property
    def relative(self) -> float | None:
        variance = (self.squares - self.total.square() / max(self.count, 1)).sum()
        return float(self.differences.sum() / variance) if self.count and variance > 0 else None


@torch.inference_mode()
def layer_errors(
    before: nn.Module, after: nn.Module, inputs: Inputs, names: Iterable[str]
) -> dict[str, float]:
    """For each rewritten convolution in `names`, its measured error: the squared difference
    between its output in `before` and in `after`, everything ahead of it converted too, relative
    to the variance of the former; on at most IMAGES of `inputs`, batch first.

    Layers that are not called exactly once in either network are left out, as are all layers where
    the networks cannot be looked into (TorchScript runs no hooks).
    """
    sums = {name: _Sums() for name in names}
    count = min(len(inputs[0]), IMAGES)
    for start in range(0, count, BATCH):
        part = tuple(tensor[start : min(start + BATCH, count)] for tensor in inputs)
        old = _outputs(before, part, {name: (name,) for name in sums})
        new = _outputs(after, part, {name: _chain(after, name) for name in sums})
        for name in list(sums):
            if name not in old or name not in new or old[name].shape != new[name].shape:
                del sums[name]
            else:
                sums[name].add(old[name], new[name])
    errors = {name: entry.relative for name, entry in sums.items()}
    return {name: error for name, error in errors.items() if error is not None}


def _chain(model: nn.Module, name: str) -> tuple[str, ...]:
    """The convolutions that stand at `name` or right below it."""
    modules = dict(model.named_modules())
    below = modules[name].named_children() if name in modules else ()
    found = tuple(f"{name}.{child}" for child, part in below if isinstance(part, nn.Conv2d))
    return found or (name,)


def _outputs(
    model: nn.Module, inputs: Inputs, watched: Mapping[str, tuple[str, ...]]
) -> dict[str, Tensor]:
    """Return by key the output of whichever of its modules ran last, if each ran exactly once."""
    seen: dict[str, list[Tensor]] = {}

    def keep(key: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.setdefault(key, []).append(output)

    modules = dict(model.named_modules())
    with _hooks() as hooks:
        for key, names in watched.items():
            for name in names:
                if name in modules and not isinstance(modules[name], torch.jit.ScriptModule):
                    hooks.append(modules[name].register_forward_hook(partial(keep, key)))
        model(*inputs)
    return {key: outputs[-1] for key, outputs in seen.items() if len(outputs) == len(watched[key])}


@contextmanager
def _hooks() -> Iterator[list[Any]]:
    """Remove the hooks whose handles are put into the list when the block ends."""
    handles: list[Any] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
