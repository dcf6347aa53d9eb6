"""Rewrite standard convolutions into depthwise + pointwise subgraphs."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from sepify.errors import ConversionError
from sepify.factorize.factors import Factors
from sepify.passes.graph import called_module, leaf_around, set_module

ROLES = {"dw-pw": ("depthwise", "pointwise"), "pw-dw": ("pointwise", "depthwise")}


def separate_convolutions(
    graph_module: fx.GraphModule, factors: Mapping[str, Factors]
) -> fx.GraphModule:
    """A copy of `graph_module` in which each convolution named in `factors` is separable.

    The module at `name` becomes a container with two children, `name.depthwise` and
    `name.pointwise`, and every node that called it becomes two calls, in the factors' order:

        dw-pw:  x -> depthwise (stride, padding, dilation) -> pointwise (bias)
        pw-dw:  x -> pointwise -> depthwise (stride, padding, dilation, bias)

    Inside a module that is called as a whole, the container itself is called in the place of the
    convolution, by that module's own code.

    A shared convolution is rewritten once and used in every place; convolutions that share one
    weight tensor share the new ones. Raises ConversionError for a name that no node calls.
    """
    separated = copy.deepcopy(graph_module)
    convs = {name: separated.get_submodule(name) for name in factors}  # held: ids below stay unique
    made: dict[tuple[int, str, int], nn.Parameter] = {}  # shared weights stay shared
    for name, solved in factors.items():
        conv = convs[name]
        if not isinstance(conv, nn.Conv2d):
            raise ConversionError(f"'{name}' is a {type(conv).__name__}, not a Conv2d")
        set_module(separated, name, _separable(conv, solved, made))
        nodes = [node for node in separated.graph.nodes if node.target == name]
        if not nodes and leaf_around(separated, name) is None:
            raise ConversionError(f"no node calls '{name}'")
        for node in nodes:
            _replace_call(separated, node, name, solved)
    separated.recompile()
    return separated


def separable_names(graph_module: fx.GraphModule) -> tuple[str, ...]:
    """The paths of the separable containers, in execution order."""
    names: dict[str, None] = {}
    for node in graph_module.graph.nodes:
        name, _, leaf = str(node.target).rpartition(".")
        if leaf == "pointwise" and called_module(graph_module, node) is not None:
            names[name] = None
    return tuple(names)


def _separable(
    conv: nn.Conv2d, solved: Factors, made: dict[tuple[int, str, int], nn.Parameter]
) -> nn.Module:
    def parameter(tensor: Tensor, role: str) -> nn.Parameter:
        key = (id(conv.weight), f"{solved.order} {role}", solved.rank)
        if key not in made:
            tensor = tensor.to(conv.weight.device, conv.weight.dtype)
            made[key] = nn.Parameter(tensor, requires_grad=conv.weight.requires_grad)
        return made[key]

    inner = solved.pointwise.shape[1] if solved.order == "dw-pw" else solved.pointwise.shape[0]
    depthwise_first = solved.order == "dw-pw"
    has_bias = solved.bias is not None
    pointwise = _without_init(
        conv.in_channels if not depthwise_first else inner,
        conv.out_channels if depthwise_first else inner,
        kernel_size=1,
        bias=has_bias and depthwise_first,
    )
    depthwise = _without_init(
        conv.in_channels if depthwise_first else inner,
        inner if depthwise_first else conv.out_channels,
        kernel_size=conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.in_channels if depthwise_first else conv.out_channels,
        bias=has_bias and not depthwise_first,
        padding_mode=conv.padding_mode,
    )
    pointwise.weight = parameter(solved.pointwise, "pointwise")
    depthwise.weight = parameter(solved.depthwise, "depthwise")
    if solved.bias is not None:
        bias = solved.bias.to(conv.weight.device, conv.weight.dtype)
        trained = conv.weight if conv.bias is None else conv.bias
        last = pointwise if depthwise_first else depthwise
        last.bias = nn.Parameter(bias, requires_grad=trained.requires_grad)
    parts: dict[str, nn.Module] = {"depthwise": depthwise, "pointwise": pointwise}
    container = nn.Sequential(OrderedDict((role, parts[role]) for role in ROLES[solved.order]))
    return container.train(conv.training)


def _without_init(in_channels: int, out_channels: int, **options: Any) -> nn.Conv2d:
    """A Conv2d whose weights are about to be replaced: no memory, no random numbers drawn."""
    return nn.Conv2d(in_channels, out_channels, **options, device="meta")


def _replace_call(graph_module: fx.GraphModule, node: fx.Node, name: str, solved: Factors) -> None:
    value = node.args[0] if node.args else node.kwargs["input"]
    with graph_module.graph.inserting_before(node):
        for role in ROLES[solved.order]:
            value = graph_module.graph.call_module(f"{name}.{role}", (value,))
    assert isinstance(value, fx.Node)
    node.replace_all_uses_with(value)
    graph_module.graph.erase_node(node)
