"""Channel pruning by Torch-Pruning, down to a given share of the multiply-adds of convolutions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO

import torch_pruning
from torch import Tensor, nn

from sepify.measuring.cost import measure_cost

TRIES = 14  # of the bisection; channels are whole, so a share is met only so nearly


def prune_channels(
    network: nn.Module, example: Tensor, macs: int, unprunable: Sequence[str]
) -> nn.Module:
    """A copy of `network` with the same share of output channels removed everywhere, those of the
    smallest L2 norm over their group, so that its convolutions cost as near as can be to `macs`.
    Linear layers keep their outputs, as do the convolutions named in `unprunable`."""
    low, high = 0.0, 1.0
    best, best_gap = network, float("inf")
    for _ in range(TRIES):
        ratio = (low + high) / 2
        pruned = _pruned(network, example, ratio, unprunable)
        cost = conv_macs(pruned, example)
        if abs(cost - macs) < best_gap:
            best, best_gap = pruned, abs(cost - macs)
        low, high = (ratio, high) if cost > macs else (low, ratio)
    return best


def conv_macs(network: nn.Module, example: Tensor) -> int:
    """Multiply-adds of all convolutions of `network` for one image."""
    return sum(
        layer.macs for layer in measure_cost(network, example).layers if "convolution" in layer.kind
    )


def _pruned(
    network: nn.Module, example: Tensor, ratio: float, unprunable: Sequence[str]
) -> nn.Module:
    pruned = copy.deepcopy(network).requires_grad_(True)
    modules = dict(pruned.named_modules())
    ignored = [modules[name] for name in unprunable]
    ignored += [module for module in modules.values() if isinstance(module, nn.Linear)]
    with redirect_stderr(StringIO()):  # it tries inputs that torch.fx complains of at length
        pruner = torch_pruning.pruner.BasePruner(
            pruned,
            example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=ignored,
        )
    pruner.step()
    return pruned.eval().requires_grad_(False)
