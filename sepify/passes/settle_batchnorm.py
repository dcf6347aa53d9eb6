"""Make the statistics that chosen BatchNorm layers hold true, their function unchanged."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sepify.graph.modules import buffers_put_back


@torch.no_grad()
def settle_batchnorm(
    graph_module: fx.GraphModule, names: Collection[str], batches: Sequence[tuple[Tensor, ...]]
) -> fx.GraphModule:
    """A copy of `graph_module` whose BatchNorm layers at the paths `names` hold the mean and the
    variance that `batches` of inputs give them, with weight and bias changed so that they compute
    the same as before in inference mode: with scale s and shift t, weight = s * sqrt(var + eps) and
    bias = t + s * mean.

    Paths at which there is none are passed over. A layer whose statistics are untrue starts
    training with a jump, for batch statistics take their place then. One that no batch reaches
    stays as it is.
    """
    settled = copy.deepcopy(graph_module)
    modes = {module: module.training for module in settled.modules()}
    norms = [
        m for path, m in settled.named_modules() if path in names and isinstance(m, _BatchNorm)
    ]
    meters = [_Meter() for _ in norms]
    hooks = [
        norm.register_forward_pre_hook(meter) for norm, meter in zip(norms, meters, strict=True)
    ]
    settled.eval()
    for batch in batches:
        with buffers_put_back(settled):
            settled(*batch)
    for hook in hooks:
        hook.remove()
    for norm, meter in zip(norms, meters, strict=True):
        if meter.count:
            _settle(norm, meter)
    for module, training in modes.items():
        module.training = training
    return settled


class _Meter:
    """Mean and variance of each channel of a module's input, over batches, in float64."""

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0
        self.count = 0

    def __call__(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows = args[0].double().transpose(0, 1).flatten(1)
        self.total = self.total + rows.sum(1)
        self.squares = self.squares + rows.square().sum(1)
        self.count += rows.shape[1]


def _settle(norm: _BatchNorm, meter: _Meter) -> None:
    assert isinstance(meter.total, Tensor)
    assert isinstance(meter.squares, Tensor)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = meter.total / meter.count
    variance = (meter.squares / meter.count - mean.square()).clamp_min(0)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - scale * norm.running_mean.double()
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.bias.copy_(shift + scale * mean)
