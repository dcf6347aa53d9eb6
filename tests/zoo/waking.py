"""Random weights under which every layer matters to the output."""

from __future__ import annotations

import torch
from torch import nn

IDLE = 1e-3  # layer scales start at 1e-6, last BatchNorms at 0: what they scale would not be tested


@torch.no_grad()
def waken(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in inference mode, with BatchNorm statistics as if it had been trained, and nothing
    left at (almost) zero: biases, layer scales, tokens, the last BatchNorm of a block."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, shape: torch.Size) -> torch.Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            shape = module.running_var.shape
            module.running_mean.copy_(0.1 * torch.randn(shape, generator=generator))
            module.running_var.copy_(uniform(0.5, 1.5, shape))
    for parameter in model.parameters():
        idle = parameter.is_floating_point() and float(parameter.abs().max()) < IDLE
        if idle:
            parameter.copy_(uniform(0.05, 0.25, parameter.shape))
    return model.eval()
