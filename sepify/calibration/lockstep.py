"""Run the original and the converted network side by side, one node at a time, over all batches.

The converted network does not exist yet: it is made as the walk goes. At each convolution that is
to be separated, what the original puts out and what the converted one takes in are both at hand;
a solver looks at them, and its answer runs on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sepify.calibration.batches import Batch
from sepify.factorize.factors import Factors
from sepify.passes.graph import called_module

# solver(name, conv, inputs in the converted network, outputs of the original), a tensor a batch
Solver = Callable[[str, nn.Conv2d, Sequence[Tensor], Sequence[Tensor]], Factors]

_IN_PLACE = {operator.iadd, operator.isub, operator.imul, operator.itruediv}


@torch.no_grad()
def solve_in_step(
    original: fx.GraphModule, names: Sequence[str], batches: Sequence[Batch], solver: Solver
) -> dict[str, Factors]:
    """Factors for each convolution in `names`, found in execution order.

    `original` must be in inference mode. A convolution called in several places is solved at its
    first. A value is freed when its last user has run; until the first separated convolution both
    networks share every value.
    """
    interpreter = fx.Interpreter(original)
    last_use = _last_users(original)
    wanted: dict[fx.Node, list[Any]] = {}  # values in the original, one a batch
    actual: dict[fx.Node, list[Any]] = {}  # values in the converted network
    solved: dict[str, Factors] = {}
    inputs = iter(range(len(batches[0])))
    for node in original.graph.nodes:
        if node.op == "output":
            break
        if node.op == "placeholder":
            position = next(inputs, None)
            if position is None:  # an optional input that keeps its default
                wanted[node] = actual[node] = [node.args[0] if node.args else None] * len(batches)
            else:
                wanted[node] = actual[node] = [batch[position] for batch in batches]
            continue
        wanted[node], actual[node] = _run_both(interpreter, node, wanted, actual, len(batches))
        name = str(node.target)
        if node.op == "call_module" and name in names:
            conv = called_module(original, node)
            assert isinstance(conv, nn.Conv2d)
            source = node.args[0] if node.args else node.kwargs["input"]
            assert isinstance(source, fx.Node)
            if name not in solved:
                solved[name] = solver(name, conv, actual[source], wanted[node])
            actual[node] = [run_factors(solved[name], conv, x) for x in actual[source]]
        for dead in last_use.get(node, ()):
            del wanted[dead], actual[dead]
    return solved


def run_factors(factors: Factors, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What the separable convolution gives for (B, M, H, W), as it will in the rewritten graph."""
    if factors.order == "dw-pw":
        return F.conv2d(_run_depthwise(factors, conv, x, None), factors.pointwise, factors.bias)
    return _run_depthwise(factors, conv, F.conv2d(x, factors.pointwise), factors.bias)


def _run_depthwise(factors: Factors, conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    groups = conv.in_channels if factors.order == "dw-pw" else conv.out_channels
    padding = conv.padding
    if conv.padding_mode != "zeros":
        x = F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = 0
    return F.conv2d(x, factors.depthwise, bias, conv.stride, padding, conv.dilation, groups)


def _run_both(
    interpreter: fx.Interpreter,
    node: fx.Node,
    wanted: dict[fx.Node, list[Any]],
    actual: dict[fx.Node, list[Any]],
    count: int,
) -> tuple[list[Any], list[Any]]:
    """Run `node` on every batch in both networks; once, where all its inputs are still shared."""
    run = getattr(interpreter, node.op)
    sources = node.all_input_nodes
    if all(wanted[source] is actual[source] for source in sources):
        result = [run(node.target, *_arguments(node, wanted, batch)) for batch in range(count)]
        return result, result
    guard = _writes_in_place(interpreter.module, node)
    results: tuple[list[Any], list[Any]] = ([], [])
    for batch in range(count):
        for values, result in zip((actual, wanted), results[::-1], strict=True):
            args, kwargs = _arguments(node, values, batch)
            if guard:  # an operand may be shared with the other network: write into a copy
                args = fx.node.map_aggregate(args, _copied)
            result.append(run(node.target, args, kwargs))
    return results


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _arguments(node: fx.Node, values: dict[fx.Node, list[Any]], batch: int) -> tuple[Any, Any]:
    def pick(source: fx.Node) -> Any:
        return values[source][batch]

    return fx.map_arg(node.args, pick), fx.map_arg(node.kwargs, pick)


def _writes_in_place(root: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    name = str(getattr(node.target, "__name__", node.target)).split(".")[0]
    return (
        node.target in _IN_PLACE
        or (name.endswith("_") and not name.endswith("__"))
        or bool(node.kwargs.get("inplace"))
    )


def _last_users(graph_module: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the values that nobody needs after it."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                last.pop(source, None)
            continue
        for source in node.all_input_nodes:
            last[source] = node
        last.setdefault(node, node)
    freed: dict[fx.Node, list[fx.Node]] = {}
    for source, user in last.items():
        freed.setdefault(user, []).append(source)
    return freed
