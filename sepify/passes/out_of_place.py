"""Replace operations that write into their operand by those that do not."""

from __future__ import annotations

import copy
import operator
from typing import Any, cast

import torch
from torch import fx
from torch.nn import functional as F

from sepify.passes.graph import called_module

_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


_ASSIGNMENTS = ("copy_", "fill_")  # how graphs write x[:, 0] = y


def make_out_of_place(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy of `graph_module` that computes the same without writing into any value: x += y
    becomes x + y, relu_ becomes relu, inplace=True becomes False, and whoever read the written
    value afterwards reads the new one. Assignments to a part (x[:, 0] = y) stay as they are.
    """
    changed = copy.deepcopy(graph_module)
    positions = {node: index for index, node in enumerate(changed.graph.nodes)}
    writers = [node for node in changed.graph.nodes if _make_one(changed, node)]
    for module in changed.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
    for node in writers:
        written = node.args[0] if node.args else next(iter(node.kwargs.values()))
        if isinstance(written, fx.Node):
            later = [user for user in written.users if positions[user] > positions[node]]
            for user in later:
                user.replace_input_with(written, node)
    changed.recompile()
    return changed


def _make_one(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` writes in place; if it is a function or a method, it no longer does."""
    module = called_module(graph_module, node)
    if module is not None:  # switched off afterwards: several nodes may call it
        return getattr(module, "inplace", False) is True
    if node.op == "call_function":
        replacement = _OPERATORS.get(cast(Any, node.target)) or _without_underscore(node.target)
        if replacement is not None:
            node.target = replacement
            return True
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
            return True
    if node.op == "call_method" and _is_in_place_name(str(node.target)):
        plain = str(node.target)[:-1]
        if hasattr(torch.Tensor, plain):
            node.target = plain
            return True
    return False


def _without_underscore(target: Any) -> Any:
    """F.relu for F.relu_, aten.add for aten.add_; None if `target` does not write in place."""
    packet = getattr(target, "overloadpacket", target)
    name = getattr(packet, "__name__", "")
    if not _is_in_place_name(name) or name in _ASSIGNMENTS:
        return None
    if isinstance(packet, torch._ops.OpOverloadPacket):
        plain = getattr(torch.ops.aten, name[:-1], None)
        overload = getattr(target, "_overloadname", None)
        return plain if overload is None or plain is None else getattr(plain, overload)
    return getattr(F, name[:-1], None) or getattr(torch, name[:-1], None)


def _is_in_place_name(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__") and not name.startswith("_")
