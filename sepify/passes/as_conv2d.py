"""Say transposed and one-dimensional convolutions as Conv2d, for which there are kernels.

A transposed convolution of stride s is a standard one of s*s times the output channels, each for
one place in a square of s by s pixels, whose outputs are interleaved (Shi et al. 2016, "Is the
deconvolution layer the same as a convolutional layer?", section 3). With o + p = t*s + r and
k = a*s + r, output o of y[o] = sum_i x[i] w[o + p - i*s] is sum_a x[t - a] w[a*s + r].
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx, nn

from sepify.graph.modules import called_module, set_module
from sepify.passes.base import Condition, Pass, Result
from sepify.passes.conditions import EVALUATING

_Conv = nn.modules.conv._ConvNd
_LINES = {nn.Conv1d, nn.ConvTranspose1d}


@dataclass(frozen=True)
class AsConv2d(Pass):
    """Every Conv1d, ConvTranspose1d and ConvTranspose2d becomes a Conv2d with reshapes around it,
    without gradients."""

    requires: ClassVar[tuple[Condition, ...]] = (EVALUATING,)

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Rewrite a copy; the sites are the calls of convolutions other than Conv2d, by path."""
        changed = copy.deepcopy(graph_module)
        made: dict[str, nn.Conv2d] = {}
        left_alone: dict[str, str] = {}
        for node in list(changed.graph.nodes):
            conv = called_module(changed, node)
            if not isinstance(conv, _Conv) or isinstance(conv, nn.Conv2d):
                continue
            path = str(node.target)
            reason = _why_not(conv, node)
            if reason is not None:
                left_alone[path] = reason
                continue
            if path not in made:
                made[path] = _transposed(conv) if conv.transposed else _widened(conv)
            with changed.graph.inserting_before(node):
                node.replace_all_uses_with(_call(changed.graph, node, conv, made[path]))
            changed.graph.erase_node(node)
        for path, module in made.items():
            set_module(changed, path, module)
        changed.recompile()
        return Result(changed, bool(made), left_alone)


def _why_not(conv: _Conv, node: fx.Node) -> str | None:
    kind = type(conv)
    if "weight" not in conv._parameters:
        return "computed weight (parametrised, normalised or spectral)"
    if kind not in (*_LINES, nn.ConvTranspose2d):
        return f"a {kind.__name__} is no Conv2d with reshapes around it"
    if conv.padding_mode != "zeros":
        return f"padding mode '{conv.padding_mode}'"
    if conv._forward_hooks or conv._forward_pre_hooks:
        return "forward hooks that a rewrite would lose"
    if conv.transposed and max(conv.dilation) > 1:
        return "transposed and dilated"
    if conv.transposed and len(node.args) + len(node.kwargs) > 1:
        return "it is told the size of its output"
    return None


def _widened(conv: _Conv) -> nn.Conv2d:
    """A Conv1d as a Conv2d of one row."""
    padding = conv.padding if isinstance(conv.padding, str) else (0, conv.padding[0])
    wide = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (1, conv.kernel_size[0]),
        (1, conv.stride[0]),
        padding,
        (1, conv.dilation[0]),
        conv.groups,
        bias=conv.bias is not None,
        device="meta",
    )
    return _filled(wide, conv.weight.detach().unsqueeze(2), conv.bias, conv)


def _transposed(conv: _Conv) -> nn.Conv2d:
    """The standard convolution whose output channels (n, row, column) are the pixels of each
    square of `stride` that output channel n has."""
    weight = conv.weight.detach()
    weight = weight.unsqueeze(2) if weight.dim() == 3 else weight
    (rows, columns), taps = _stride(conv), _taps(conv)
    inputs, outputs, height, width = weight.shape  # outputs of a group
    weight = nn.functional.pad(
        weight, (0, taps[1] * columns - width, 0, taps[0] * rows - height)
    ).reshape(conv.groups, inputs // conv.groups, outputs, taps[0], rows, taps[1], columns)
    weight = weight.permute(0, 2, 4, 6, 1, 3, 5).flip(5, 6)
    weight = weight.reshape(-1, inputs // conv.groups, *taps)
    bias = None if conv.bias is None else conv.bias.detach().repeat_interleave(rows * columns)
    standard = nn.Conv2d(
        conv.in_channels,
        conv.out_channels * rows * columns,
        taps,
        padding=(taps[0] - 1, taps[1] - 1),
        groups=conv.groups,
        bias=bias is not None,
        device="meta",
    )
    return _filled(standard, weight, bias, conv)


def _filled(new: nn.Conv2d, weight: Tensor, bias: Tensor | None, old: nn.Module) -> nn.Conv2d:
    new.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return new.train(old.training)


def _call(graph: fx.Graph, node: fx.Node, conv: _Conv, made: nn.Conv2d) -> fx.Node:
    """The Conv2d that `made` will be at the node's path, and what its output goes through."""
    x = node.args[0] if node.args else node.kwargs["input"]
    line = type(conv) in _LINES
    if line:
        x = graph.call_function(torch.unsqueeze, (x, -2))
    y = graph.call_module(str(node.target), (x,))
    y.meta = dict(node.meta)
    if conv.transposed:
        rows, columns = _stride(conv)
        if rows * columns > 1:
            y = graph.call_function(_interleaved, (y, rows, columns))
        if any(margins := [margin for axis in _margins(conv) for margin in axis]):
            y = graph.call_function(_cropped, (y, *margins))
    return graph.call_function(torch.squeeze, (y, -2)) if line else y


def _interleaved(y: Tensor, rows: int, columns: int) -> Tensor:
    """(..., N*rows*columns, H, W) -> (..., N, H*rows, W*columns)."""
    squares: Tensor = y.unflatten(-3, (-1, rows, columns))
    return squares.movedim((-4, -3), (-3, -1)).flatten(-4, -3).flatten(-2, -1)


def _cropped(y: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Without so many pixels at each side."""
    return y[..., top : -bottom or None, left : -right or None]


def _stride(conv: _Conv) -> tuple[int, int]:
    return (1, conv.stride[0]) if len(conv.stride) == 1 else (conv.stride[0], conv.stride[1])


def _taps(conv: _Conv) -> tuple[int, int]:
    """Taps along each axis that one place of a square sees, enough for the padded output too."""
    first, second = (
        -(-max(kernel, kernel + extra - padding) // stride)
        for kernel, stride, padding, extra in _axes(conv)
    )
    return first, second


def _margins(conv: _Conv) -> list[tuple[int, int]]:
    """Pixels of the interleaved map before and after the output, along each axis."""
    return [
        (padding, taps * stride + padding - kernel - extra)
        for taps, (kernel, stride, padding, extra) in zip(_taps(conv), _axes(conv), strict=True)
    ]


def _axes(conv: _Conv) -> list[tuple[int, int, int, int]]:
    """Kernel, stride, padding and output padding along both axes."""
    assert not isinstance(conv.padding, str)  # PyTorch has no names for a transposed one's
    found = list(zip(conv.kernel_size, conv.stride, conv.padding, conv.output_padding, strict=True))
    return found if len(found) == 2 else [(1, 1, 0, 0), *found]
