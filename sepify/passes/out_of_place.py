"""Replace operations that write into their operand by those that do not."""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import fx
from torch.fx.node import has_side_effect
from torch.nn import functional as F

from sepify.graph.modules import called_module
from sepify.graph.operators import (
    KINDS,
    OUT_OF_PLACE_OPERATORS,
    is_in_place_name,
    operator_name,
)
from sepify.passes.base import Condition, Pass, Result
from sepify.passes.conditions import OUT_OF_PLACE

_ASSIGNMENTS = ("copy_", "fill_")  # how graphs write x[:, 0] = y

has_side_effect(torch.ops.aten.copy_)  # or dead code elimination would drop it


@dataclass(frozen=True)
class MakeOutOfPlace(Pass):
    """The same is computed without writing into any value: x += y becomes x + y, relu_ becomes
    relu, inplace=True becomes False, and whoever read the written value afterwards reads the new
    one.

    Two writes stay: assignments to a part (x[:, 0] = y), and, as such assignments, writes into a
    part or another view of what is read afterwards (x[:, 0].mul_(2), then x). Those into a stored
    tensor go to a copy of it: the network keeps nothing from call to call.
    """

    ensures: ClassVar[tuple[Condition, ...]] = (OUT_OF_PLACE,)

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Rewrite a copy; the sites are the nodes that write."""
        made = copy.deepcopy(graph_module)
        switched_off = [m for m in made.modules() if getattr(m, "inplace", False) is True]
        changed = bool(switched_off)
        left_alone: dict[str, str] = {}
        for node in list(made.graph.nodes):
            if not _make_one(made, node):
                if _writes(node):
                    left_alone[node.name] = _why_not(node)
                continue
            changed = True
            written = node.args[0] if node.args else next(iter(node.kwargs.values()))
            if not isinstance(written, fx.Node):
                continue
            if _is_read_otherwise(made, written, node):
                with made.graph.inserting_after(node):
                    assignment = made.graph.call_function(torch.ops.aten.copy_, (written, node))
                node.replace_all_uses_with(
                    assignment, lambda user, kept=assignment: user is not kept
                )
                continue
            for user in [user for user in written.users if user > node]:
                user.replace_input_with(written, node)
        for module in switched_off:
            module.inplace = False  # type: ignore[assignment]
        changed |= _keep_stored_tensors(made)
        made.recompile()
        return Result(made, changed, left_alone)


def _why_not(node: fx.Node) -> str:
    name = operator_name(node.target)
    if name in (*_ASSIGNMENTS, "setitem", "__setitem__"):
        return "it assigns to a part of a value, which other nodes read"
    return f"no operation does without writing what '{name}' does"


def _keep_stored_tensors(graph_module: fx.GraphModule) -> bool:
    """Let each run write to a copy of its own of the stored tensors that it writes to: every run
    is then a first call, whatever ran before. Whether there are any."""
    nodes = list(graph_module.graph.nodes)
    written = {
        str(base.target)
        for node in nodes
        for base in [_base(graph_module, node)]
        if base is not node and base.op == "get_attr" and _writes(node)
    }
    for target in written:
        readers = [node for node in nodes if node.op == "get_attr" and node.target == target]
        users = [node for node in nodes if any(r in readers for r in node.all_input_nodes)]
        with graph_module.graph.inserting_before(users[0]):
            first = graph_module.graph.get_attr(target)
            own = graph_module.graph.call_function(torch.clone, (first,))
        for reader in readers:
            reader.replace_all_uses_with(own)
            graph_module.graph.erase_node(reader)
    return bool(written)


def _base(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The value whose memory `node` has, or writes to."""
    given = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    base = given if given is not None and _writes(node) else node
    while (viewed := _viewed(graph_module, base)) is not None:
        base = viewed
    return base


def _writes(node: fx.Node) -> bool:
    if node.target is operator.setitem or node.target == "__setitem__":
        return True
    called = node.op in ("call_function", "call_method")
    return called and is_in_place_name(operator_name(node.target))


def _is_read_otherwise(graph_module: fx.GraphModule, written: fx.Node, writer: fx.Node) -> bool:
    """Whether anything after `writer` reads the memory of `written` by another node than that."""
    base = written
    while (viewed := _viewed(graph_module, base)) is not None:
        base = viewed
    if base.op == "get_attr" and base is not written:  # other nodes may get it
        return True
    left, seen = [base], {base}
    while left:
        alias = left.pop()
        later = [user for user in alias.users if user > writer]
        if alias is not written and later:
            return True
        views = [user for user in alias.users if _viewed(graph_module, user) is alias]
        earlier = [view for view in views if view < writer and view not in seen]
        seen.update(earlier)
        left += earlier
    return False


def _viewed(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The value whose memory that of `node` may be; None for a new one's."""
    module = called_module(graph_module, node)
    called = node.op in ("call_function", "call_method")
    name = operator_name(node.target) if called else ""
    name = name if module is None else type(module).__name__
    # what is left to write in place gives it on
    shares = KINDS.get(name) == "view" or is_in_place_name(name)
    given = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    return given if shares and isinstance(given, fx.Node) else None


def _make_one(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` writes in place; if it is a function or a method, it no longer does."""
    module = called_module(graph_module, node)
    if module is not None:  # switched off afterwards: several nodes may call it
        return getattr(module, "inplace", False) is True
    if node.op == "call_function":
        replacement = OUT_OF_PLACE_OPERATORS.get(cast(Any, node.target)) or _without_underscore(
            node.target
        )
        if replacement is not None:
            node.target = replacement
            return True
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
            return True
    if node.op == "call_method" and is_in_place_name(str(node.target)):
        plain = str(node.target)[:-1]
        if hasattr(torch.Tensor, plain):
            node.target = plain
            return True
    return False


def _without_underscore(target: Any) -> Any:
    """F.relu for F.relu_, aten.add for aten.add_; None if `target` does not write in place."""
    packet = getattr(target, "overloadpacket", target)
    name = operator_name(target)
    if not is_in_place_name(name) or name in _ASSIGNMENTS:
        return None
    if isinstance(packet, torch._ops.OpOverloadPacket):
        plain = getattr(torch.ops.aten, name[:-1], None)
        overload = getattr(target, "_overloadname", None)
        return plain if overload is None or plain is None else getattr(plain, overload)
    return getattr(F, name[:-1], None) or getattr(torch, name[:-1], None)
