"""What passes require of a graph and ensure: each a row with the words and the check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import fx

from sepify.graph.operators import OUT_OF_PLACE_OPERATORS
from sepify.passes.base import Condition


def _first(found: Iterable[str]) -> str | None:
    return next(iter(found), None)


def _training(graph_module: fx.GraphModule) -> Iterator[str]:
    return (path for path, module in graph_module.named_modules() if module.training)


def _learning(graph_module: fx.GraphModule) -> Iterator[str]:
    return (path for path, parameter in graph_module.named_parameters() if parameter.requires_grad)


def _writing(graph_module: fx.GraphModule) -> Iterator[str]:
    for path, module in graph_module.named_modules():
        if getattr(module, "inplace", False) is True:
            yield path
    for node in graph_module.graph.nodes:
        writes = node.target in OUT_OF_PLACE_OPERATORS or node.kwargs.get("inplace") is True
        if node.op == "call_function" and writes:
            yield node.name


def _dict_outputs(graph_module: fx.GraphModule) -> Iterator[str]:
    for node in graph_module.graph.nodes:
        if isinstance(node.target, type) and issubclass(node.target, dict):
            yield node.name


def _nested_outputs(graph_module: fx.GraphModule) -> Iterator[str]:
    for output in graph_module.graph.find_nodes(op="output"):
        returned = output.args[0]
        if not isinstance(returned, tuple):
            yield "the output"
        else:
            yield from (str(part) for part in returned if isinstance(part, (tuple, list, dict)))


def _checks(graph_module: fx.GraphModule) -> Iterator[str]:
    found = graph_module.graph.find_nodes(op="call_function", target=torch._assert)
    return (node.name for node in found)


EVALUATING = Condition("every module is in evaluation mode", lambda g: _first(_training(g)))
WITHOUT_GRADIENTS = Condition("no parameter asks for gradients", lambda g: _first(_learning(g)))
OUT_OF_PLACE = Condition("no operation overwrites its operand", lambda g: _first(_writing(g)))
PLAIN_OUTPUTS = Condition("no output is a dataclass", lambda g: _first(_dict_outputs(g)))
FLAT_OUTPUTS = Condition("the output is one flat tuple", lambda g: _first(_nested_outputs(g)))
WITHOUT_CHECKS = Condition("nothing is asserted", lambda g: _first(_checks(g)))
