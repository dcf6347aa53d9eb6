"""What a CPU in bf16 does best in float32: the strided depthwise convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sepify.graph.modules import called_module
from sepify.passes.base import Pass, Result

Pair = tuple[int, int]


def strided_depthwise(
    images: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    """A depthwise convolution, (B, C, H, W) -> (B, C r, H', W'), without autocast on a CPU.

    oneDNN has no fast gradient of a strided one in bf16: of 32 channels of 14 x 14 at stride 2, 128
    images, it took 18 ms where that in float32 takes 1 to 2 (torch 2.13, an Intel Xeon with AMX).
    """
    groups = images.shape[1]
    if images.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.conv2d(images, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(images.float(), weight, bias, stride, padding, dilation, groups)


@dataclass(frozen=True)
class SpareStridedDepthwise(Pass):
    """`strided_depthwise` is called in the place of every module that computes the same.

    The modules and the names of their parameters stay.
    """

    in_place: ClassVar[bool] = True

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Rewrite `graph_module` itself; the sites are the calls of depthwise convolutions."""
        graph = graph_module.graph
        left_alone: dict[str, str] = {}
        changed = False
        for node in list(graph.nodes):
            module = called_module(graph_module, node)
            if not isinstance(module, nn.Conv2d) or not module.groups == module.in_channels > 1:
                continue
            reason = _why_not(module)
            if reason is not None:
                left_alone[str(node.target)] = reason
                continue
            with graph.inserting_before(node):
                weight = graph.get_attr(f"{node.target}.weight")
                bias = None if module.bias is None else graph.get_attr(f"{node.target}.bias")
                rest = (module.stride, module.padding, module.dilation)
                image = node.args[0] if node.args else node.kwargs["input"]
                new = graph.call_function(strided_depthwise, (image, weight, bias, *rest))
                new.meta["is_wrapped"] = True  # not traced into when the graph is pickled
            node.replace_all_uses_with(new)
            graph.erase_node(node)
            changed = True
        graph_module.recompile()
        return Result(graph_module, changed, left_alone)


def _why_not(module: nn.Conv2d) -> str | None:
    """Why `strided_depthwise` is not to be called in the place of a depthwise convolution."""
    if type(module) is not nn.Conv2d:
        return f"a subclass of Conv2d, {type(module).__name__}"
    if max(module.stride) == 1:
        return "it has no stride, and is fast as it is"
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return "its padding is not a number of zeros"
    return None
