"""What of a graph is quantised: layers, the values that they read and leave, and why others stay.

Only the graph decides, never a name: a layer is a Conv2d or a Linear that is called once. Between
layers, what works element by element (activations, additions, products) belongs to the layer before
it: sums are added before they are rounded. A value is rounded where a quantised layer reads it, and
where it leaves such a chain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.errors import PlanError, UsageError
from sepify.faults import users_code
from sepify.graph.convolutions import survey
from sepify.graph.grids import WeightBits
from sepify.graph.modules import call_counts, called_module, why_not_plain_conv
from sepify.graph.operators import module_kind, operator_kind, operator_name

Selection = Sequence[str] | Callable[[nn.Module, str], bool]
"""Layers to leave in float: names or shell patterns, or a function of a module and its name that
answers True for them."""

ELEMENTWISE = {"activation", "addition", "norm"}
PRODUCTS = {"mul", "div", "truediv", "multiply"}
UNCHANGED = {"Identity", "Dropout", "dropout", "Dropout2d", "dropout2d", "detach", "contiguous"}
MOVING = {
    *UNCHANGED,
    *("max_pool2d", "MaxPool2d", "flatten", "Flatten", "view", "reshape", "getitem", "pad"),
    *("ZeroPad2d", "cat", "concat", "permute", "transpose", "chunk", "split", "squeeze"),
    *("unsqueeze", "channel_shuffle", "ChannelShuffle", "narrow", "select", "unfold"),
}
"""Operators that give out values that they were given: they stay on their grid."""


@dataclass(frozen=True)
class Layer:
    """A layer that is quantised: its path, its call, the bits of its weights, and whether its
    output is a map between two linear layers, read by the next as it is."""

    name: str
    node: fx.Node
    module: nn.Conv2d | nn.Linear
    bits: WeightBits
    between: bool


@dataclass(frozen=True)
class Value:
    """A value that is rounded, channels along `axis`. `moved`: it was only moved, and stays on the
    grid where it lies already. `reader`: the only layer that reads it, where nothing but that
    layer's weights stands in the way of wider scales."""

    node: fx.Node
    axis: int
    moved: bool
    reader: fx.Node | None


@dataclass(frozen=True)
class Sites:
    """Everything that is quantised, by node; `floating` says of each other layer why it stays as it
    is, and `others` counts the operators that are computed in float between layers."""

    layers: Mapping[fx.Node, Layer]
    values: Mapping[fx.Node, Value]
    floating: Mapping[str, str]
    others: Mapping[str, int]


def find_sites(
    graph_module: fx.GraphModule,
    shapes: Mapping[fx.Node, torch.Size],
    bits: WeightBits,
    keep: Selection = (),
    eight: Sequence[str] = (),
) -> Sites:
    """The sites of a graph in inference mode without BatchNorm behind convolutions.

    Args:
        graph_module: the graph.
        shapes: of the float32 tensors among its values, by node.
        bits: of the weights.
        keep: layers to leave in float.
        eight: paths at and below which weights have 8 bits.

    Raises:
        PlanError: a pattern in `keep` matches no layer.
    """
    reasons = _reasons(graph_module, shapes, keep)
    calls = {n: called_module(graph_module, n) for n in graph_module.graph.nodes}
    chosen = {n: m for n, m in calls.items() if reasons.get(_path(n), "") is None}
    reach = _Reach(graph_module.graph, chosen)
    values = {n: v for n in shapes if (v := _value(n, calls, chosen, shapes)) is not None}
    layers = {}
    for node, module in chosen.items():
        assert isinstance(module, nn.Conv2d | nn.Linear)
        outer = node not in reach.behind or node not in reach.ahead
        grouped = isinstance(module, nn.Conv2d) and module.groups > 1
        readers = _tensor_users(node, shapes)
        layers[node] = Layer(
            str(node.target),
            node,
            module,
            8 if outer or grouped or _at(str(node.target), eight) else bits,
            node in values and all(user in chosen for user in readers),
        )
    floating = {name: why for name, why in reasons.items() if why is not None}
    return Sites(layers, values, floating, _others(graph_module, calls, chosen, shapes))


def _path(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_module" else node.name


def _reasons(
    graph_module: fx.GraphModule, shapes: Mapping[fx.Node, torch.Size], keep: Selection
) -> dict[str, str | None]:
    """Why each layer that multiplies by weights stays in float; None if it need not."""
    counts = call_counts(graph_module)
    reasons: dict[str, str | None] = {
        c.name: c.obstacle or "not called by the graph itself" for c in survey(graph_module)
    }
    shared = Counter(id(p) for m in graph_module.modules() for p in m._parameters.values())
    layers: dict[str, nn.Module] = {}
    for node in graph_module.graph.nodes:
        module = called_module(graph_module, node)
        if isinstance(module, nn.Conv2d | nn.Linear):
            name = str(node.target)
            reasons[name] = _why_not(module, node, shapes)
            if reasons[name] is None and counts[name] > 1:
                reasons[name] = "called in several places, whose inputs have different scales"
            if reasons[name] is None and shared[id(module.weight)] > 1:
                reasons[name] = "its weight is another layer's too"
            layers[name] = module
        elif node.op != "call_module" and operator_kind(node.target) == "product":
            reasons[node.name] = "a product of matrices that the network computes"
    return {**reasons, **_kept(layers, reasons, keep)}


def _kept(
    layers: Mapping[str, nn.Module], reasons: Mapping[str, str | None], keep: Selection
) -> dict[str, str]:
    if callable(keep):
        with users_code("keep", UsageError):
            return {
                name: "asked to keep it" for name, module in layers.items() if keep(module, name)
            }
    kept: dict[str, str] = {}
    for pattern in keep:
        found = [n for n in reasons if fnmatchcase(n, pattern) or _at(n, (pattern,))]
        if not found:
            names = ", ".join(list(reasons)[:5]) or "none"
            raise PlanError(f"keep pattern '{pattern}' matches no layer (there are: {names})")
        kept |= {name: f"asked to keep '{pattern}'" for name in found if reasons[name] is None}
    return kept


def _at(name: str, paths: Sequence[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _why_not(
    module: nn.Conv2d | nn.Linear, node: fx.Node, shapes: Mapping[fx.Node, torch.Size]
) -> str | None:
    given = node.all_input_nodes[0]
    if isinstance(module, nn.Conv2d):
        plain = why_not_plain_conv(module)
        if plain is not None:
            return plain
        if module.padding_mode != "zeros":
            return f"padded by '{module.padding_mode}', for which there are no integer kernels"
    elif type(module).forward is not nn.Linear.forward or "weight" not in module._parameters:
        return f"a {type(module).__name__} with its own forward or a computed weight"
    if node not in shapes or given not in shapes:
        return "not float32"
    if isinstance(module, nn.Conv2d) and len(shapes[given]) != 4:
        return "reads a single image, without a batch"
    return None


def _value(
    node: fx.Node,
    calls: Mapping[fx.Node, nn.Module | None],
    chosen: Mapping[fx.Node, nn.Module | None],
    shapes: Mapping[fx.Node, torch.Size],
) -> Value | None:
    """The site of a node's value; None where it is not rounded."""
    users = _tensor_users(node, shapes)
    readers = [user for user in users if user in chosen]
    if not readers and not _leaves_chain(node, users, calls, chosen):
        return None
    dims = len(shapes[node])
    if dims < 2:
        return None
    linear = readers and all(isinstance(calls[user], nn.Linear) for user in readers)
    axis = dims - 1 if linear or dims == 3 else 1
    only = readers[0] if len(users) == len(readers) == 1 and node in chosen else None
    if only is not None:
        module = calls[only]
        grouped = isinstance(module, nn.Conv2d) and module.groups > 1
        only = None if grouped else only  # a column is a row there, with a scale of its own
    return Value(node, axis, _name(node, calls) in MOVING, only)


def _leaves_chain(
    node: fx.Node,
    users: Sequence[fx.Node],
    calls: Mapping[fx.Node, nn.Module | None],
    chosen: Mapping[fx.Node, nn.Module | None],
) -> bool:
    """Whether what a quantised layer, and the element by element operators behind it, computed is
    read by something else than the next of those operators."""
    outside = [user for user in users if user.op != "output"]
    if not outside or not _from_layer(node, calls, chosen):
        return False
    floating = [isinstance(calls[u], nn.Conv2d | nn.Linear) and u not in chosen for u in outside]
    if all(floating):
        return False
    return len(users) > 1 or not _goes_on(outside[0], calls)


def _from_layer(
    node: fx.Node,
    calls: Mapping[fx.Node, nn.Module | None],
    chosen: Mapping[fx.Node, nn.Module | None],
) -> bool:
    while node not in chosen:
        if not _goes_on(node, calls) or not node.all_input_nodes:
            return False
        node = node.all_input_nodes[0]
    return True


def _goes_on(node: fx.Node, calls: Mapping[fx.Node, nn.Module | None]) -> bool:
    """Whether it works element by element."""
    module = calls[node]
    kind = module_kind(module) if module is not None else operator_kind(node.target)
    if node.op in ("placeholder", "get_attr", "output"):
        return False
    return kind in ELEMENTWISE or _name(node, calls) in PRODUCTS | UNCHANGED


def _name(node: fx.Node, calls: Mapping[fx.Node, nn.Module | None]) -> str:
    module = calls[node]
    return type(module).__name__ if module is not None else operator_name(node.target)


def _tensor_users(node: fx.Node, shapes: Mapping[fx.Node, torch.Size]) -> list[fx.Node]:
    """Who reads the value, but for what asks for its size alone."""
    return [user for user in node.users if user in shapes or user.op == "output" or _parts(user)]


def _parts(node: fx.Node) -> bool:
    """Whether it gives several tensors."""
    return operator_name(node.target) in ("chunk", "split", "unbind", "tensor_split")


class _Reach:
    """Which nodes have a quantised layer `behind` them, and which have one `ahead`."""

    def __init__(self, graph: fx.Graph, chosen: Mapping[fx.Node, Any]) -> None:
        self.behind: set[fx.Node] = set()
        self.ahead: set[fx.Node] = set()
        for node in graph.nodes:
            if any(n in chosen or n in self.behind for n in node.all_input_nodes):
                self.behind.add(node)
        for node in reversed(graph.nodes):
            if any(n in chosen or n in self.ahead for n in node.users):
                self.ahead.add(node)


def _others(
    graph_module: fx.GraphModule,
    calls: Mapping[fx.Node, nn.Module | None],
    chosen: Mapping[fx.Node, Any],
    shapes: Mapping[fx.Node, torch.Size],
) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for node in graph_module.graph.nodes:
        if node in shapes and node not in chosen and node.op.startswith("call"):
            name = _name(node, calls)
            if name not in MOVING and not isinstance(calls[node], nn.Conv2d | nn.Linear):
                counted[name] += 1
    return dict(counted)


def float_shapes(values: Mapping[fx.Node, Any]) -> dict[fx.Node, torch.Size]:
    """The shapes of the float32 tensors among values that depend on the input."""
    return {
        node: value.shape
        for node, value in values.items()
        if isinstance(value, Tensor) and value.dtype == torch.float32 and node.op != "get_attr"
    }
