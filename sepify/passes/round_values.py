"""Put activations on integer grids: torch's own quantise and dequantise nodes behind them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from sepify.graph.grids import BufferTracer, Grid
from sepify.passes.base import Pass, Result

HOME = "quantised_values"
OPS = torch.ops.quantized_decomposed


@dataclass(frozen=True)
class RoundValues(Pass):
    """Behind each node named in `grids` its value is quantised to u8 and dequantised, and whoever
    read it reads what comes back:

        x -> quantize_per_channel -> dequantize_per_channel -> its readers

    or `..._per_tensor` where all channels have one scale and one zero point. Scales and zero points
    are buffers at `quantised_values.NODE.scale` and `.zero_point`.

    Args:
        grids: by the node's name.
    """

    grids: Mapping[str, Grid] = field(default_factory=dict, repr=False)

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Round in a copy; the sites are the nodes in `grids`."""
        rounded = copy.deepcopy(graph_module)
        nodes = {node.name: node for node in rounded.graph.nodes}
        left_alone = {name: "there is no such node" for name in self.grids if name not in nodes}
        for name, grid in self.grids.items():
            if name in nodes:
                _round(rounded, nodes[name], grid)
        rounded.graph._tracer_cls = rounded._tracer_cls = BufferTracer
        rounded.recompile()
        return Result(rounded, len(left_alone) < len(self.grids), left_alone)


def _round(graph_module: fx.GraphModule, node: fx.Node, grid: Grid) -> None:
    graph, users = graph_module.graph, list(node.users)
    bounds = (Grid.LOW, Grid.HIGH, torch.uint8)
    after = node
    if node.op == "placeholder":  # behind the last of them
        after = [n for n in graph.nodes if n.op == "placeholder"][-1]
    with graph.inserting_after(after):
        alike = len({*grid.scales.tolist()}) == len({*grid.zero_points.tolist()}) == 1
        if alike:
            steps: tuple[Any, ...] = (float(grid.scales[0]), int(grid.zero_points[0]), *bounds)
            codes = graph.call_function(OPS.quantize_per_tensor.default, (node, *steps))
            back = OPS.dequantize_per_tensor.default
        else:
            home = buffers(graph_module, f"{HOME}.{node.name}")
            home.register_buffer("scale", grid.scales.clone())
            home.register_buffer("zero_point", grid.zero_points.to(torch.int32))
            zero = graph.get_attr(f"{HOME}.{node.name}.zero_point")
            scale = graph.get_attr(f"{HOME}.{node.name}.scale")
            steps = (scale, zero, grid.axis, *bounds)
            with graph.inserting_after(zero):
                codes = graph.call_function(OPS.quantize_per_channel.default, (node, *steps))
            back = OPS.dequantize_per_channel.default
    with graph.inserting_after(codes):
        values = graph.call_function(back, (codes, *steps))
    for user in users:
        user.replace_input_with(node, values)


def buffers(graph_module: fx.GraphModule, path: str) -> nn.Module:
    """The module at `path`, made of empty ones as far as there is none."""
    module: nn.Module = graph_module
    for part in path.split("."):
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module
