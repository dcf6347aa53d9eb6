"""Questions that every pass asks of a graph module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

OPAQUE = "sepify.opaque"
"""In the meta of a node that calls a module as a whole: why convolutions inside it must stay."""


def called_module(graph_module: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a call_module node calls; None for any other node."""
    if node.op != "call_module":
        return None
    return graph_module.get_submodule(str(node.target))


def convolutions_inside(
    graph_module: nn.Module, node: fx.Node
) -> Iterator[tuple[str, nn.modules.conv._ConvNd]]:
    """The convolutions, with their paths, inside a module that the graph calls as a whole because
    it cannot be traced; none for a node that calls a convolution, or no module."""
    module = called_module(graph_module, node)
    if module is None or isinstance(module, nn.modules.conv._ConvNd):
        return
    for name, inner in module.named_modules():
        if isinstance(inner, nn.modules.conv._ConvNd):
            yield f"{node.target}.{name}", inner


def leaf_around(graph_module: fx.GraphModule, path: str) -> str | None:
    """The module called as a whole that has the module at `path` inside; None if there is none."""
    for node in graph_module.graph.nodes:
        if node.op == "call_module" and path.startswith(f"{node.target}."):
            return str(node.target)
    return None


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


@contextmanager
def buffers_put_back(model: nn.Module, but: Collection[nn.Module] = ()) -> Iterator[None]:
    """What a run writes to buffers, `but` for those of some modules, is undone."""
    held = [m for m in model.modules() if m not in but]
    before = [(b, b.clone()) for m in held for b in m._buffers.values() if b is not None]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def set_module(graph_module: fx.GraphModule, path: str, module: nn.Module) -> None:
    """Put `module` at `path`, whose parent must exist."""
    parent, _, leaf = path.rpartition(".")
    setattr(graph_module.get_submodule(parent), leaf, module)
