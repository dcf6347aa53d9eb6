"""The names of the operators that a graph calls, one for all their spellings."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

_BUILTINS: dict[Any, str] = {
    torch.conv1d: "conv1d",
    torch.conv2d: "conv2d",
    torch.conv3d: "conv3d",
    torch.conv_transpose1d: "conv_transpose1d",
    torch.conv_transpose2d: "conv_transpose2d",
    torch.conv_transpose3d: "conv_transpose3d",
    torch.convolution: "convolution",
    torch._convolution: "_convolution",
    torch._convolution_mode: "_convolution_mode",
    torch.batch_norm: "batch_norm",
    nn.functional.batch_norm: "F.batch_norm",
    torch._C._nn.linear: "linear",
    torch.dropout: "dropout",
}


CONVOLUTIONS = (
    *("conv1d", "conv2d", "conv3d", "_convolution_mode", "convolution", "_convolution"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
)


def node_name(node: fx.Node) -> str:
    """The name of the function that a node calls, one for all its spellings; "" if unknown."""
    return _BUILTINS.get(node.target) or _aten_name(node.target)


def _aten_name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        target = target.overloadpacket
    if isinstance(target, torch._ops.OpOverloadPacket):
        qualified: str = target._qualified_op_name
        return qualified.removeprefix("aten::")
    return ""
