"""Graphs that also return what their layers put out, so that student and teacher can be compared.

The values come out through the graph itself: no hooks, nothing to remove afterwards, and it works
inside whatever wraps the module (DDP, autocast, a compiler).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from sepify.passes.graph import called_module
from sepify.passes.separate import separable_names

Pair = tuple[fx.Node, fx.Node]  # the student's node and the teacher's


def matched_layers(student: fx.GraphModule, teacher: fx.GraphModule) -> dict[str, list[Pair]]:
    """For each rewritten convolution: where the student and where the teacher put out its result,
    call by call.

    A layer is left out if the teacher has no convolution of that name, or calls it another number
    of times; so is one inside a module that a graph calls as a whole.
    """
    found: dict[str, list[Pair]] = {}
    for name in separable_names(student):
        roles = [_calls(student, f"{name}.{role}") for role in ("depthwise", "pointwise")]
        originals = _calls(teacher, name)
        if not len(roles[0]) == len(roles[1]) == len(originals) > 0:
            continue
        order = {node: place for place, node in enumerate(student.graph.nodes)}
        lasts = [max(call, key=order.__getitem__) for call in zip(*roles, strict=True)]
        found[name] = list(zip(lasts, originals, strict=True))
    return found


def tapped(graph_module: fx.GraphModule, nodes: Sequence[fx.Node]) -> fx.GraphModule:
    """A graph module with the modules of `graph_module`, not copies of them, that returns
    (what that one returns, the values of `nodes`)."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(graph_module.graph, copies)
    graph.output((output, tuple(copies[node] for node in nodes)))
    made = fx.GraphModule(graph_module, graph)
    made.train(graph_module.training)
    return made


def _calls(graph_module: fx.GraphModule, name: str) -> list[fx.Node]:
    return [
        node
        for node in graph_module.graph.nodes
        if node.target == name and called_module(graph_module, node) is not None
    ]
