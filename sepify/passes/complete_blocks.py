"""Give separable convolutions the BatchNorm and the activation of a MobileNet block."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sepify.graph.following import meets
from sepify.graph.modules import call_counts, called_module
from sepify.passes.separate import activation

ADDED_NORMS = ("depthwise_bn", "pointwise_bn")


def complete_blocks(
    graph_module: fx.GraphModule, names: Collection[str], ceiling: float
) -> fx.GraphModule:
    """A copy of `graph_module` in which each separable convolution in `names` (dw-pw) is followed
    by BatchNorm and an activation (Howard et al. 2017, figure 3).

    The network's own are used where there are: the bias of a pointwise convolution that a
    BatchNorm follows goes into that one's running mean, as a bias there does nothing in training.
    Where the value gets to other weights without meeting a BatchNorm, `name.pointwise_bn` is added,
    the identity in inference mode; without meeting an activation, `name.pointwise_act`, ReLU up to
    `ceiling`. Nothing is added where the value can reach the outputs first: they may have to be
    negative; no activation where an addition comes first, as in residual networks that keep the
    sum linear (He et al. 2016, identity mappings; EDSR) or bottlenecks (Sandler et al. 2018); and
    nothing around what is called as a whole, whose insides are not known.
    """
    completed = copy.deepcopy(graph_module)
    calls = call_counts(completed)
    for node in list(completed.graph.nodes):
        name, _, role = str(node.target).rpartition(".")
        if role != "pointwise" or name not in names or node.op != "call_module":
            continue
        if calls[str(node.target)] > 1:  # what follows in one place may not in the other
            continue
        norm_missing = meets(completed, node, {"norm"}) == {"weights"}
        activation_missing = meets(completed, node, {"activation", "addition"}) == {"weights"}
        after = _own_batchnorm(completed, node, calls)
        if after is not None:
            _fold_bias(completed, node, after)
        elif norm_missing:
            after = _insert(
                completed, node, f"{name}.pointwise_bn", _identity_norm(completed, node)
            )
        if activation_missing:
            made = activation(ceiling).train(completed.get_submodule(name).training)
            _insert(completed, after or node, f"{name}.pointwise_act", made)
    completed.recompile()
    return completed


def _own_batchnorm(
    graph_module: fx.GraphModule, node: fx.Node, calls: dict[str, int]
) -> fx.Node | None:
    """The call of a BatchNorm2d that reads `node` alone and that nothing else calls."""
    users: Sequence[fx.Node] = list(node.users)
    if len(users) != 1:
        return None
    norm = called_module(graph_module, users[0])
    alone = calls.get(str(users[0].target)) == 1
    return users[0] if isinstance(norm, nn.BatchNorm2d) and alone else None


@torch.no_grad()
def _fold_bias(graph_module: fx.GraphModule, node: fx.Node, after: fx.Node) -> None:
    """BN(x + b) with mean m is BN(x) with mean m - b."""
    pointwise, norm = called_module(graph_module, node), called_module(graph_module, after)
    assert isinstance(pointwise, nn.Conv2d)
    assert isinstance(norm, _BatchNorm)
    if pointwise.bias is not None and norm.running_mean is not None:
        norm.running_mean -= pointwise.bias.to(norm.running_mean)
        pointwise.bias = None


@torch.no_grad()
def _identity_norm(graph_module: fx.GraphModule, node: fx.Node) -> nn.BatchNorm2d:
    """That in inference mode adds the bias which the pointwise convolution gives up for it."""
    pointwise = called_module(graph_module, node)
    assert isinstance(pointwise, nn.Conv2d)
    like = pointwise.weight
    norm = nn.BatchNorm2d(pointwise.out_channels, device=like.device, dtype=like.dtype)
    norm.weight.fill_((1 + norm.eps) ** 0.5)
    if pointwise.bias is not None:
        norm.bias.copy_(pointwise.bias)
        pointwise.bias = None
    return norm.requires_grad_(like.requires_grad).train(pointwise.training)


def _insert(graph_module: fx.GraphModule, before: fx.Node, path: str, module: nn.Module) -> fx.Node:
    parent, _, leaf = path.rpartition(".")
    graph_module.get_submodule(parent).add_module(leaf, module)
    with graph_module.graph.inserting_after(before):
        node = graph_module.graph.call_module(path, (before,))
    before.replace_all_uses_with(node, lambda user: user is not node)
    return node
