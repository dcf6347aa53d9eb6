"""What torch.export assumed of the sizes of its inputs, as checks in the rebuilt graph.

The program keeps its assumptions as Python expressions beside the graph, such as
`L['x'].size()[2] > 5`. Where `module()` evaluates them, here they are read, and become nodes.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from sepify.capture.torchscript.scalars import negated_node

_BINARY: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_SOURCE = re.compile(r"L((?:\[[^\]]+\])+)\.size\(\)\[(\d+)\]")


class _Unreadable(Exception):
    """A guard with something in it that is no arithmetic on sizes."""


def emit_guards(
    graph: fx.Graph, guards: Iterable[str], inputs: Mapping[str, fx.Node]
) -> tuple[str, ...]:
    """Add a runtime check for each guard at the end of `graph`; what was assumed, in words.

    torch.export sets sizes of 0 and 1 apart for reasons of its own (strides, broadcasting), which
    the network seldom shares: that an image is larger than a pixel is checked and not worth a word,
    and that a batch holds more than one is neither.
    """
    checked, unchecked = [], []
    for guard in guards:
        told = _SOURCE.sub(lambda m: f"{_input_name(m[1])}.size({m[2]})", guard)
        tree = ast.parse(guard, mode="eval").body
        tiny = _sets_tiny_sizes_apart(tree)
        if tiny and ".size(0)" in told:
            continue
        try:
            condition = _node(graph, tree, inputs)
        except _Unreadable:
            unchecked += [] if tiny else [told]
            continue
        message = f"captured for inputs with {told}; capture again for this shape"
        graph.call_function(torch._assert, (condition, message))
        checked += [] if tiny else [told]
    notes = []
    if checked:
        notes.append(f"assumed, as for the example input, that {some(checked)}")
    if unchecked:
        notes.append(f"assumed, and not checked when the network runs, that {some(unchecked)}")
    return tuple(notes)


def some(items: Sequence[str], most: int = 4) -> str:
    """The first few of `items`, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _sets_tiny_sizes_apart(tree: ast.expr) -> bool:
    """Whether the guard only excludes results of 0 and 1: `a != 1`, `a >= 2`, `1 < a`."""
    if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And):
        return all(map(_sets_tiny_sizes_apart, tree.values))
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1:
        return False
    kind, left, right = type(tree.ops[0]), tree.left, tree.comparators[0]
    if isinstance(left, ast.Constant):
        kind, right = {ast.Lt: ast.Gt, ast.LtE: ast.GtE}.get(kind, kind), left
    if not isinstance(right, ast.Constant) or not isinstance(right.value, int):
        return False
    highest = {ast.NotEq: 1, ast.Gt: 1, ast.GtE: 2}.get(kind)
    return highest is not None and right.value <= highest


def _node(graph: fx.Graph, tree: ast.expr, inputs: Mapping[str, fx.Node]) -> Any:
    if isinstance(tree, ast.Constant) and isinstance(tree.value, (int, float)):
        return tree.value
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return graph.call_function(operator.neg, (_node(graph, tree.operand, inputs),))
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not):
        return negated_node(_node(graph, tree.operand, inputs))
    if isinstance(tree, ast.BinOp) and type(tree.op) in _BINARY:
        both = _node(graph, tree.left, inputs), _node(graph, tree.right, inputs)
        return graph.call_function(_BINARY[type(tree.op)], both)
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1 and type(tree.ops[0]) in _BINARY:
        both = _node(graph, tree.left, inputs), _node(graph, tree.comparators[0], inputs)
        return graph.call_function(_BINARY[type(tree.ops[0])], both)
    if isinstance(tree, ast.BoolOp):
        combined, *others = [_node(graph, value, inputs) for value in tree.values]
        function = operator.and_ if isinstance(tree.op, ast.And) else operator.or_
        for other in others:
            combined = graph.call_function(function, (combined, other))
        return combined
    source = _SOURCE.fullmatch(ast.unparse(tree))
    if source is None or _input_name(source[1]) not in inputs:
        raise _Unreadable
    return graph.call_method("size", (inputs[_input_name(source[1])], int(source[2])))


def _input_name(keys: str) -> str:
    """`['args'][0]` -> args_0, as torch.export names its placeholders."""
    return "_".join(re.findall(r"\w+", keys))
