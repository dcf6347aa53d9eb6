"""Questions that every pass asks of a graph module."""

from __future__ import annotations

from collections import Counter

from torch import fx, nn
from torch.nn.utils import parametrize


def called_module(graph_module: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a call_module node calls; None for any other node."""
    if node.op != "call_module":
        return None
    return graph_module.get_submodule(str(node.target))


def call_counts(graph_module: fx.GraphModule) -> Counter[str]:
    """How many nodes call the same *module*, under the path of each that is called."""
    nodes = [node for node in graph_module.graph.nodes if node.op == "call_module"]
    per_module = Counter(id(called_module(graph_module, node)) for node in nodes)
    return Counter(
        {str(node.target): per_module[id(called_module(graph_module, node))] for node in nodes}
    )


def is_plain_conv(module: nn.Module) -> bool:
    """A Conv2d that computes what Conv2d computes, from a weight that is simply stored.

    Subclasses are accepted as long as they keep Conv2d's own forward; weight-normed, spectrally
    normed or otherwise parametrised ones are not, nor are those with hooks.
    """
    return why_not_plain_conv(module) is None


def why_not_plain_conv(module: nn.Module) -> str | None:
    """The reason, in words, why a Conv2d is not plain; None if it is."""
    if not isinstance(module, nn.Conv2d):
        return f"not a Conv2d but a {type(module).__name__}"
    if type(module).forward is not nn.Conv2d.forward or (
        type(module)._conv_forward is not nn.Conv2d._conv_forward
    ):
        return f"subclass {type(module).__name__} with its own forward"
    if parametrize.is_parametrized(module) or "weight" not in module._parameters:
        return "computed weight (parametrised, normalised or spectral)"
    if module._forward_hooks or module._forward_pre_hooks:
        return "forward hooks that a rewrite would lose"
    return None


def set_module(graph_module: fx.GraphModule, path: str, module: nn.Module) -> None:
    """Put `module` at `path`, whose parent must exist."""
    parent, _, leaf = path.rpartition(".")
    setattr(graph_module.get_submodule(parent), leaf, module)
