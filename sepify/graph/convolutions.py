"""Find every convolution of a graph, and say of each whether it can be rewritten or why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, fx, nn

from sepify.graph.modules import OPAQUE, called_module, convolutions_inside, why_not_plain_conv
from sepify.graph.operators import CONVOLUTIONS, signature_name


@dataclass(frozen=True)
class Convolution:
    """A convolution as it stands in the graph.

    `kernel` is the weight's shape, (N, M, kh, kw) with M per group for a Conv2d, or () where the
    weight is computed; `obstacle` is the reason why it can take no other form, None if it can;
    `nodes` are the calls, in execution order. Where it is inside a module that could not be traced,
    they call that module, at path `leaf`.
    """

    name: str
    kernel: tuple[int, ...]
    params: int
    obstacle: str | None
    nodes: tuple[fx.Node, ...]
    module: nn.modules.conv._ConvNd | None
    leaf: str | None = None

    @property
    def pointwise(self) -> bool:
        """Whether its window is one pixel."""
        return self.kernel[2:] == (1, 1)


def survey(graph_module: fx.GraphModule) -> tuple[Convolution, ...]:
    """Every convolution of `graph_module`, each listed once: in execution order, those inside a
    module that is called as a whole in the order in which they were registered."""
    found: dict[str, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if _is_convolution(graph_module, node):
            name = str(node.target) if node.op == "call_module" else node.name
            found.setdefault(name, []).append(node)
        for name, _ in convolutions_inside(graph_module, node):
            found.setdefault(name, []).append(node)
    entangled = _weights_used_elsewhere(graph_module)
    return tuple(
        _describe(graph_module, name, tuple(nodes), entangled) for name, nodes in found.items()
    )


def _is_convolution(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    module = called_module(graph_module, node)
    if module is not None:
        return isinstance(module, nn.modules.conv._ConvNd)
    return node.op == "call_function" and signature_name(node) in CONVOLUTIONS


def _describe(
    graph_module: fx.GraphModule,
    name: str,
    nodes: tuple[fx.Node, ...],
    entangled: dict[int, str],
) -> Convolution:
    if nodes[0].op != "call_module":
        kernel = _stored_kernel(graph_module, nodes[0])
        reason = "called as a function with a weight that other operations compute or share"
        return Convolution(name, kernel, 0, reason, nodes, None)
    module = graph_module.get_submodule(name)
    assert isinstance(module, nn.modules.conv._ConvNd)
    leaf = None if nodes[0].target == name else str(nodes[0].target)
    kernel = tuple(module.weight.shape)
    params = module.weight.numel() + (0 if module.bias is None else module.bias.numel())
    obstacle = _obstacle(module) or entangled.get(id(module.weight)) or nodes[0].meta.get(OPAQUE)
    return Convolution(name, kernel, params, obstacle, nodes, module, leaf)


def _obstacle(module: nn.modules.conv._ConvNd) -> str | None:
    if not isinstance(module, nn.Conv2d):
        return f"{type(module).__name__}: only Conv2d is rewritten"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "lazy: its shape is not known before a first run"
    plain = why_not_plain_conv(module)
    if plain is not None:
        return plain
    if module.groups == module.in_channels and module.groups > 1:
        return "already depthwise"
    if module.groups > 1:
        return f"grouped convolution (groups={module.groups})"
    if not module.weight.is_floating_point():
        return f"weights are {module.weight.dtype}, not real floating point"
    return None


def _weights_used_elsewhere(graph_module: fx.GraphModule) -> dict[int, str]:
    """Weights that the graph also reads directly, by id, and the reason that makes."""
    used: dict[int, str] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            value = _attribute(graph_module, str(node.target))
            used[id(value)] = f"its weight is also read by the graph as '{node.target}'"
    return used


def _attribute(graph_module: fx.GraphModule, path: str) -> object:
    parent, _, leaf = path.rpartition(".")
    return getattr(graph_module.get_submodule(parent), leaf)


def _stored_kernel(graph_module: fx.GraphModule, node: fx.Node) -> tuple[int, ...]:
    weight = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
    if isinstance(weight, fx.Node) and weight.op == "get_attr":
        value = _attribute(graph_module, str(weight.target))
        return tuple(value.shape) if isinstance(value, Tensor) else ()
    return ()


def rewritable(
    convolutions: tuple[Convolution, ...],
) -> Iterator[tuple[Convolution, nn.Conv2d]]:
    """Those that can be rewritten, each with its module."""
    for convolution in convolutions:
        if convolution.obstacle is None and isinstance(convolution.module, nn.Conv2d):
            yield convolution, convolution.module
