"""Give separable convolutions the BatchNorm and the activation of a MobileNet block."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sepify.graph.following import Kind, meets
from sepify.graph.modules import call_counts, called_module
from sepify.passes.base import Pass, Result
from sepify.passes.separate import activation

ADDED_NORMS = ("depthwise_bn", "pointwise_bn")


@dataclass(frozen=True)
class CompleteBlocks(Pass):
    """Each separable convolution in `names` (dw-pw) is followed by BatchNorm and an activation
    (Howard et al. 2017, figure 3).

    The network's own are used where there are: the bias of a pointwise convolution that a
    BatchNorm follows goes into that one's running mean, as a bias there does nothing in training.
    Where the value gets to other weights without meeting a BatchNorm, `name.pointwise_bn` is added,
    the identity in inference mode; without meeting an activation, `name.pointwise_act`, ReLU up to
    `ceiling`. Nothing is added where the value can reach the outputs first: they may have to be
    negative; no activation where an addition comes first, as in residual networks that keep the
    sum linear (He et al. 2016, identity mappings; EDSR) or bottlenecks (Sandler et al. 2018); and
    nothing around what is called as a whole, whose insides are not known.

    Args:
        names: paths of separable convolutions.
        ceiling: 6 for ReLU6, infinity for ReLU.
    """

    names: Collection[str] = ()
    ceiling: float = inf

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Complete a copy; the sites are `names`, and what is missing there is said."""
        completed = copy.deepcopy(graph_module)
        calls = call_counts(completed)
        left_alone = dict.fromkeys(self.names, "no node calls it: it is inside of another module")
        changed = False
        for node in list(completed.graph.nodes):
            name, _, role = str(node.target).rpartition(".")
            if role != "pointwise" or name not in self.names or node.op != "call_module":
                continue
            if calls[str(node.target)] > 1:
                left_alone[name] = "called in several places: what follows in one may not in others"
                continue
            done, reasons = self._complete(completed, node, calls)
            changed |= done
            del left_alone[name]
            if reasons:
                left_alone[name] = "; ".join(reasons)
        completed.recompile()
        return Result(completed, changed, left_alone)

    def _complete(
        self, network: fx.GraphModule, node: fx.Node, calls: dict[str, int]
    ) -> tuple[bool, list[str]]:
        """Whether anything was changed behind `node`, and why something is still missing there."""
        name = str(node.target).rpartition(".")[0]
        norm_met = meets(network, node, {"norm"})
        activation_met = meets(network, node, {"activation", "addition"})
        changed, reasons = False, []
        after = _own_batchnorm(network, node, calls)
        if after is not None:
            changed = _fold_bias(network, node, after)
        elif norm_met == {"weights"}:
            after = _insert(network, node, f"{name}.pointwise_bn", _identity_norm(network, node))
            changed = True
        else:
            reasons += _why_none("BatchNorm", norm_met - {"norm"})
        if activation_met == {"weights"}:
            made = activation(self.ceiling).train(network.get_submodule(name).training)
            _insert(network, after or node, f"{name}.pointwise_act", made)
            changed = True
        else:
            reasons += _why_none("activation", activation_met - {"activation"})
        return changed, reasons


_IN_THE_WAY: dict[Kind, str] = {
    "output": "its value may reach the outputs first",
    "addition": "an addition comes first",
    "unknown": "its value gets into a module whose insides are not known",
    "weights": "its value meets one on some of its ways, and none on others",
}


def _why_none(what: str, met: set[Kind]) -> list[str]:
    """Why no other one is added, given what the value meets beside the network's own."""
    return [f"no {what}: {why}" for kind, why in _IN_THE_WAY.items() if kind in met][:1]


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
def _fold_bias(graph_module: fx.GraphModule, node: fx.Node, after: fx.Node) -> bool:
    """BN(x + b) with mean m is BN(x) with mean m - b. Whether there was a bias to fold."""
    pointwise, norm = called_module(graph_module, node), called_module(graph_module, after)
    assert isinstance(pointwise, nn.Conv2d)
    assert isinstance(norm, _BatchNorm)
    if pointwise.bias is None or norm.running_mean is None:
        return False
    norm.running_mean -= pointwise.bias.to(norm.running_mean)
    pointwise.bias = None
    return True


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
