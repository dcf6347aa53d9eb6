"""Put integer weights in place of a layer's own: it then multiplies integers by integers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from sepify.errors import ConversionError
from sepify.graph.grids import LARGEST_WEIGHT, Grid, RoundedWeights
from sepify.graph.modules import call_counts, set_module
from sepify.passes.base import Pass, Result

OPS = torch.ops.quantized_decomposed
DEQUANTISE = (OPS.dequantize_per_channel.default, OPS.dequantize_per_tensor.default)


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Each Conv2d or Linear named in `layers` reads the codes of its input as they are, and has
    integers for weights:

        codes of the input -> dequantize_per_tensor, scale 1 --+
        weight, int8 -> dequantize_per_channel, a scale a row -+-> conv2d or linear -> + bias

    The input's scales, one for each channel, are in the columns of the weights already: what the
    layer sums up are integers, and one factor for each row is left to what follows. The module at
    `name` holds `weight`, `weight_scale`, `weight_zero_point` and `bias`.

    Requires that the input of each was rounded (`RoundValues`).

    Args:
        layers: by the layer's path.

    Raises:
        ConversionError: a layer's input is not quantised, or the layer is called in several places.
    """

    layers: Mapping[str, RoundedWeights] = field(default_factory=dict, repr=False)

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Replace in a copy; the sites are the layers in `layers`."""
        rounded = copy.deepcopy(graph_module)
        calls = call_counts(rounded)
        nodes = {str(n.target): n for n in rounded.graph.nodes if n.op == "call_module"}
        integers: dict[fx.Node, fx.Node] = {}  # of each quantise node
        for name, weights in self.layers.items():
            if calls.get(name) != 1:
                raise ConversionError(f"'{name}' is called in {calls.get(name, 0)} places, not one")
            _replace(rounded, nodes[name], weights, integers)
        for node in reversed(list(rounded.graph.nodes)):
            if node.target in DEQUANTISE and not node.users:
                rounded.graph.erase_node(node)
        rounded.recompile()
        return Result(rounded, bool(self.layers))


def _replace(
    graph_module: fx.GraphModule,
    node: fx.Node,
    weights: RoundedWeights,
    integers: dict[fx.Node, fx.Node],
) -> None:
    name, graph = str(node.target), graph_module.graph
    given = node.args[0] if node.args else node.kwargs["input"]
    if not isinstance(given, fx.Node) or given.target not in DEQUANTISE:
        raise ConversionError(f"'{name}': its input is not quantised")
    codes = given.args[0]
    assert isinstance(codes, fx.Node)
    if codes not in integers:
        integers[codes] = _as_integers(graph_module, given, codes)
    layer = graph_module.get_submodule(name)
    set_module(graph_module, name, _holding(weights))
    largest = LARGEST_WEIGHT[weights.bits]
    with graph.inserting_before(node):
        parts = [graph.get_attr(f"{name}.{part}") for part in _PARTS]
        weight = graph.call_function(
            OPS.dequantize_per_channel.default, (*parts, 0, -largest, largest, torch.int8)
        )
        bias = None if weights.bias is None else graph.get_attr(f"{name}.bias")
        function, options = _function(layer)
        value = graph.call_function(function, (integers[codes], weight, bias, *options))
    node.replace_all_uses_with(value)
    graph.erase_node(node)


_PARTS = ("weight", "weight_scale", "weight_zero_point")


def _holding(weights: RoundedWeights) -> nn.Module:
    holder = nn.Module()
    holder.register_buffer("weight", weights.codes.to(torch.int8))
    holder.register_buffer("weight_scale", weights.scales.clone())
    holder.register_buffer("weight_zero_point", torch.zeros_like(weights.scales, dtype=torch.int32))
    if weights.bias is not None:
        holder.bias = nn.Parameter(weights.bias.clone(), requires_grad=False)
    return holder.eval()


def _as_integers(graph_module: fx.GraphModule, given: fx.Node, codes: fx.Node) -> fx.Node:
    """A node that gives the codes less their zero points, in float32."""
    graph, bounds = graph_module.graph, (Grid.LOW, Grid.HIGH, torch.uint8)
    zero: Any = given.args[2]
    after = given
    if isinstance(zero, fx.Node):
        path = str(zero.target)
        zeros = graph_module.get_buffer(path)
        if len({*zeros.tolist()}) > 1:
            home = path.rpartition(".")[0]
            graph_module.get_submodule(home).register_buffer("one", torch.ones(len(zeros)))
            with graph.inserting_after(given):
                one = graph.get_attr(f"{home}.one")
            with graph.inserting_after(one):
                return graph.call_function(
                    OPS.dequantize_per_channel.default, (codes, one, zero, given.args[3], *bounds)
                )
        zero = int(zeros[0])
    with graph.inserting_after(after):
        return graph.call_function(OPS.dequantize_per_tensor.default, (codes, 1.0, zero, *bounds))


def _function(layer: nn.Module) -> tuple[Any, tuple[Any, ...]]:
    """The function that `layer` calls, and its arguments behind the bias."""
    if isinstance(layer, nn.Linear):
        return F.linear, ()
    assert isinstance(layer, nn.Conv2d)
    return F.conv2d, (layer.stride, layer.padding, layer.dilation, layer.groups)
