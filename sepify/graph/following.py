"""What a value meets on its way through a graph: normalisation, activations, other weights."""

from __future__ import annotations

from typing import Literal

from torch import fx

from sepify.graph.modules import called_module
from sepify.graph.operators import module_kind, operator_kind

Kind = Literal["norm", "activation", "weights", "addition", "output", "unknown", "other"]

_MET: dict[str, Kind] = {
    "convolution": "weights",
    "product": "weights",
    "norm": "norm",
    "activation": "activation",
    "gate": "activation",
    "addition": "addition",
    "unknown": "unknown",
}


def meets(graph_module: fx.GraphModule, start: fx.Node, wanted: set[Kind]) -> set[Kind]:
    """What the value of `start` meets first, on every way that it takes: of the kinds in `wanted`,
    "weights" (of another convolution or linear layer), "output" and "unknown" (a module whose
    insides are not known)."""
    stops = {*wanted, "weights", "output", "unknown"}
    met: set[Kind] = set()
    left, seen = list(start.users), set(start.users)
    while left:
        node = left.pop()
        kind = _kind(graph_module, node)
        if kind in stops:
            met.add(kind)
            continue
        new = [user for user in node.users if user not in seen]
        seen.update(new)
        left += new
    return met


def _kind(graph_module: fx.GraphModule, node: fx.Node) -> Kind:
    if node.op == "output":
        return "output"
    module = called_module(graph_module, node)
    kind = operator_kind(node.target) if module is None else module_kind(module)
    return _MET.get(kind or "other", "other")
