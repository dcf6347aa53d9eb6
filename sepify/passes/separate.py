"""Rewrite standard convolutions into depthwise + pointwise subgraphs."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.errors import ConversionError
from sepify.factorize.factors import BATCHNORM_EPS, Between, Factors
from sepify.graph.modules import called_module, leaf_around, set_module
from sepify.passes.base import Pass, Result

ROLES = {"dw-pw": ("depthwise", "pointwise"), "pw-dw": ("pointwise", "depthwise")}


@dataclass(frozen=True)
class SeparateConvolutions(Pass):
    """Each convolution named in `factors` becomes separable.

    The module at `name` becomes a container with two children, `name.depthwise` and
    `name.pointwise`, and every node that called it becomes two calls, in the factors' order:

        dw-pw:  x -> depthwise (stride, padding, dilation) -> pointwise (bias)
        pw-dw:  x -> pointwise -> depthwise (stride, padding, dilation, bias)

    Factors with BatchNorm and a ReLU between (dw-pw only) have `name.depthwise_bn` and
    `name.depthwise_act` there, called in their place.

    Inside a module that is called as a whole, the container itself is called in the place of the
    convolution, by that module's own code.

    A shared convolution is rewritten once and used in every place; convolutions that share one
    weight tensor share the new ones.

    Args:
        factors: by the convolution's path.

    Raises:
        ConversionError: there is no Conv2d at a path, or no node calls it.
    """

    factors: Mapping[str, Factors] = field(default_factory=dict, repr=False)

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Separate in a copy; the sites are the standard convolutions that the graph calls."""
        separated = copy.deepcopy(graph_module)
        left_alone = {
            str(node.target): "there are no factors for it"
            for node in separated.graph.nodes
            if is_standard(called_module(separated, node)) and node.target not in self.factors
        }
        # held, so that ids below stay unique
        convs = {name: separated.get_submodule(name) for name in self.factors}
        made: dict[tuple[int, str, int], nn.Parameter] = {}  # shared weights stay shared
        for name, solved in self.factors.items():
            conv = convs[name]
            if not isinstance(conv, nn.Conv2d):
                raise ConversionError(f"'{name}' is a {type(conv).__name__}, not a Conv2d")
            container = _separable(conv, solved, made)
            set_module(separated, name, container)
            nodes = [node for node in separated.graph.nodes if node.target == name]
            if not nodes and leaf_around(separated, name) is None:
                raise ConversionError(f"no node calls '{name}'")
            for node in nodes:
                _replace_call(separated, node, name, tuple(dict(container.named_children())))
        separated.recompile()
        return Result(separated, bool(self.factors), left_alone)


def is_standard(module: nn.Module | None) -> bool:
    """Whether it is a standard convolution: a Conv2d of one group with more than one tap."""
    return isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size != (1, 1)


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
    roles = list(ROLES[solved.order])
    if solved.between is not None:
        parts["depthwise_bn"] = _batchnorm(solved.between, conv)
        parts["depthwise_act"] = activation(solved.between.ceiling)
        roles[1:1] = ["depthwise_bn", "depthwise_act"]
    container = nn.Sequential(OrderedDict((role, parts[role]) for role in roles))
    return container.train(conv.training)


def activation(ceiling: float) -> nn.Module:
    """ReLU, or ReLU6 for a `ceiling` of 6. Raises ConversionError for another one."""
    if ceiling not in (6.0, float("inf")):
        raise ConversionError(f"no activation is cut off at {ceiling}")
    return nn.ReLU6() if ceiling == 6.0 else nn.ReLU()


def _batchnorm(between: Between, conv: nn.Conv2d) -> nn.BatchNorm2d:
    like = conv.weight
    norm = nn.BatchNorm2d(len(between.mean), BATCHNORM_EPS, device=like.device, dtype=like.dtype)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(between.mean)
        norm.running_var.copy_(between.variance)
        norm.weight.copy_(between.weight)
        norm.bias.copy_(between.bias)
    return norm.requires_grad_(like.requires_grad)


def _without_init(in_channels: int, out_channels: int, **options: Any) -> nn.Conv2d:
    """A Conv2d whose weights are about to be replaced: no memory, no random numbers drawn."""
    return nn.Conv2d(in_channels, out_channels, **options, device="meta")


def _replace_call(
    graph_module: fx.GraphModule, node: fx.Node, name: str, roles: Sequence[str]
) -> None:
    value = node.args[0] if node.args else node.kwargs["input"]
    with graph_module.graph.inserting_before(node):
        for role in roles:
            value = graph_module.graph.call_module(f"{name}.{role}", (value,))
    assert isinstance(value, fx.Node)
    node.replace_all_uses_with(value)
    graph_module.graph.erase_node(node)
