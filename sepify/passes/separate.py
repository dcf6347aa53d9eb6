"""Rewrite standard convolutions into the chains of smaller ones that stand in for them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from sepify.errors import ConversionError
from sepify.factorize.factors import BATCHNORM_EPS, Between, Factors, Part
from sepify.graph.modules import called_module, leaf_around, set_module
from sepify.passes.base import Pass, Result

# The roles of the convolutions of a chain, in execution order, and of what may stand between and
# after them. Nobody else names modules so.
CHAINS = (
    ("depthwise", "pointwise"),
    ("pointwise", "depthwise"),
    ("reduce", "depthwise", "expand"),
    ("reduce", "expand"),
    ("vertical", "horizontal"),
)
BESIDE = {f"{role}_{kind}" for role in ("depthwise", "pointwise") for kind in ("bn", "act")}


@dataclass(frozen=True)
class SeparateConvolutions(Pass):
    """Each convolution named in `factors` becomes a chain.

    The module at `name` becomes a container with a child for each part of the factors, and every
    node that called it becomes as many calls, in order (w: with stride, padding and dilation, all
    of them or along one axis; b: with the bias):

        dw-pw:       x -> depthwise (w) -> pointwise (b)
        pw-dw:       x -> pointwise -> depthwise (w, b)
        bottleneck:  x -> reduce -> depthwise (w) -> expand (b)
        low-rank:    x -> reduce (w) -> expand (b)
        spatial:     x -> vertical (w) -> horizontal (w, b)

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
        made: dict[tuple[int, str], nn.Parameter] = {}  # shared weights stay shared
        for name, solved in self.factors.items():
            conv = convs[name]
            if not isinstance(conv, nn.Conv2d):
                raise ConversionError(f"'{name}' is a {type(conv).__name__}, not a Conv2d")
            container = _chain(conv, solved, made)
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


def chains(graph_module: fx.GraphModule) -> dict[str, tuple[str, ...]]:
    """The paths of the containers that stand in for convolutions, in execution order, each with
    the names of its convolutions."""
    found: dict[str, tuple[str, ...]] = {}
    for node in graph_module.graph.nodes:
        name = str(node.target).rpartition(".")[0]
        if called_module(graph_module, node) is None or not name or name in found:
            continue
        parts = dict(graph_module.get_submodule(name).named_children())
        roles = tuple(role for role, part in parts.items() if isinstance(part, nn.Conv2d))
        if roles in CHAINS and set(parts) - set(roles) <= BESIDE:
            found[name] = roles
    return found


def _chain(
    conv: nn.Conv2d, solved: Factors, made: dict[tuple[int, str], nn.Parameter]
) -> nn.Module:
    def parameter(part: Part) -> nn.Parameter:
        key = (id(conv.weight), f"{part.role} {tuple(part.weight.shape)}")
        if key not in made:
            tensor = part.weight.to(conv.weight.device, conv.weight.dtype)
            made[key] = nn.Parameter(tensor, requires_grad=conv.weight.requires_grad)
        return made[key]

    modules: OrderedDict[str, nn.Module] = OrderedDict()
    parts = solved.parts
    for part in parts:
        has_bias = part is parts[-1] and solved.bias is not None
        modules[part.role] = small = part.stand_in(conv, bias=has_bias)
        small.weight = parameter(part)
        if has_bias and solved.bias is not None:
            bias = solved.bias.to(conv.weight.device, conv.weight.dtype)
            trained = conv.weight if conv.bias is None else conv.bias
            small.bias = nn.Parameter(bias, requires_grad=trained.requires_grad)
        if solved.between is not None and len(modules) == 1:
            modules["depthwise_bn"] = _batchnorm(solved.between, conv)
            modules["depthwise_act"] = activation(solved.between.ceiling)
    return nn.Sequential(modules).train(conv.training)


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
