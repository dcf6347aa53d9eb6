"""Graphs that also return what their layers put out, so that student and teacher can be compared.

The values come out through the graph itself: no hooks, nothing to remove afterwards, and it works
inside whatever wraps the module (DDP, autocast, a compiler).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _BatchNorm

from sepify.graph.modes import evaluating
from sepify.graph.modules import called_module
from sepify.passes.separate import chains

Pair = tuple[fx.Node, fx.Node]  # the student's node and the teacher's


@torch.no_grad()
def comparable_layers(
    student: fx.GraphModule,
    teacher: fx.GraphModule,
    shown: Sequence[Tensor],
    inputs: Sequence[Tensor],
) -> dict[str, list[Pair]]:
    """For each rewritten convolution: where the student and where the teacher put out its result,
    call by call.

    A layer is left out if the teacher has no convolution of that name, calls it another number of
    times, or puts out another shape (a thinned student has fewer channels): `shown` to the student,
    `inputs` to the teacher, say so. So is one inside a module that a graph calls as a whole.
    Where BatchNorm took over the bias (style "mobilenet"), it is what comes out of that which
    should be the same.
    """
    found = _matched_layers(student, teacher)
    with evaluating(student, teacher):
        olds, news = (
            tapped(network, [pair[which] for calls in found.values() for pair in calls])(*given)[1]
            for network, which, given in ((teacher, 1, inputs), (student, 0, shown))
        )
    fits = {
        pair: old.shape == new.shape
        for pair, old, new in zip(
            (pair for calls in found.values() for pair in calls), olds, news, strict=True
        )
    }
    return {name: calls for name, calls in found.items() if all(fits[pair] for pair in calls)}


def _matched_layers(student: fx.GraphModule, teacher: fx.GraphModule) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for name, parts in chains(student).items():
        roles = [_calls(student, f"{name}.{role}") for role in parts]
        originals = _calls(teacher, name)
        if not originals or any(len(calls) != len(originals) for calls in roles):
            continue
        order = {node: place for place, node in enumerate(student.graph.nodes)}
        lasts = [max(call, key=order.__getitem__) for call in zip(*roles, strict=True)]
        found[name] = [
            _after_batchnorm(student, name, last, original)
            for last, original in zip(lasts, originals, strict=True)
        ]
    return found


def _after_batchnorm(student: fx.GraphModule, name: str, last: fx.Node, original: fx.Node) -> Pair:
    """Return the two corresponding values, at or right after two convolutions."""
    if not _calls(student, f"{name}.depthwise_bn"):
        return last, original
    after, before = (next(iter(node.users), node) for node in (last, original))
    if after.target == f"{name}.pointwise_bn":
        return after, original
    same = after.target == before.target and len(last.users) == len(original.users) == 1
    norm = called_module(student, after)
    return (after, before) if same and isinstance(norm, _BatchNorm) else (last, original)


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
