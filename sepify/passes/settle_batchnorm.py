"""Make the statistics that chosen BatchNorm layers hold true, their function unchanged."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sepify.graph.modes import evaluating
from sepify.graph.modules import buffers_put_back
from sepify.passes.base import Pass, Result


@dataclass(frozen=True)
class SettleBatchNorm(Pass):
    """The BatchNorm layers at the paths `names` hold the mean and the variance that `batches` of
    inputs give them, with weight and bias changed so that they compute the same as before in
    inference mode: with scale s and shift t, weight = s * sqrt(var + eps) and bias = t + s * mean.

    A layer whose statistics are untrue starts training with a jump, for batch statistics take
    their place then.

    Args:
        names: paths.
        batches: inputs, (B, ...) each; None where there are no calibration data.
    """

    names: Collection[str] = ()
    batches: Sequence[tuple[Tensor, ...]] | None = field(default=None, repr=False)

    @torch.no_grad()
    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Settle a copy; the sites are `names`."""
        settled = copy.deepcopy(graph_module)
        norms = {
            path: module
            for path, module in settled.named_modules()
            if path in self.names and isinstance(module, _BatchNorm)
        }
        meters = {path: _Meter() for path in norms}
        hooks = [norm.register_forward_pre_hook(meters[path]) for path, norm in norms.items()]
        with evaluating(settled):
            for batch in self.batches or ():
                with buffers_put_back(settled):
                    settled(*batch)
        for hook in hooks:
            hook.remove()
        left_alone = dict.fromkeys(self.names, "there is no BatchNorm")
        for path, norm in norms.items():
            if meters[path].count:
                _settle(norm, meters[path])
                del left_alone[path]
            else:
                left_alone[path] = _UNREACHED if self.batches is not None else _NO_DATA
        changed = len(left_alone) < len(set(self.names))
        return Result(settled, changed, left_alone)


_UNREACHED = "no batch reaches it"
_NO_DATA = "there are no calibration data"


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
