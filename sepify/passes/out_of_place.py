"""Replace operations that write into their operand by those that do not."""

from __future__ import annotations

import copy
import operator
from typing import Any, cast

import torch
from torch import fx
from torch.fx.node import has_side_effect
from torch.nn import functional as F

from sepify.graph.modules import called_module

_OPERATORS = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


_ASSIGNMENTS = ("copy_", "fill_")  # how graphs write x[:, 0] = y

# What may give out the very memory that it was given: by a function's, a method's or an aten
# operator's name, or a module's class. One too many here costs a copy, one too few is wrong.
_VIEWS = {
    *("getitem", "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel"),
    *("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "getattr"),
    *("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk"),
    *("unsafe_split", "narrow", "select", "diagonal", "unfold", "as_strided", "alias", "detach"),
    *("squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "contiguous", "real", "imag"),
    *("view_as_real", "view_as_complex", "to", "type", "type_as", "float", "half", "double"),
    *("bfloat16", "cpu", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
    *("Identity", "Flatten", "Unflatten", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d"),
}

has_side_effect(torch.ops.aten.copy_)  # or dead code elimination would drop it


def make_out_of_place(graph_module: fx.GraphModule) -> fx.GraphModule:
    """A copy of `graph_module` that computes the same without writing into any value: x += y
    becomes x + y, relu_ becomes relu, inplace=True becomes False, and whoever read the written
    value afterwards reads the new one.

    Two writes stay: assignments to a part (x[:, 0] = y), and, as such assignments, writes into a
    part or another view of what is read afterwards (x[:, 0].mul_(2), then x). Those into a stored
    tensor go to a copy of it: the network keeps nothing from call to call.
    """
    changed = copy.deepcopy(graph_module)
    switched_off = [m for m in changed.modules() if getattr(m, "inplace", False) is True]
    for node in list(changed.graph.nodes):
        if not _make_one(changed, node):
            continue
        written = node.args[0] if node.args else next(iter(node.kwargs.values()))
        if not isinstance(written, fx.Node):
            continue
        if _is_read_otherwise(changed, written, node):
            with changed.graph.inserting_after(node):
                assignment = changed.graph.call_function(torch.ops.aten.copy_, (written, node))
            node.replace_all_uses_with(assignment, lambda user, kept=assignment: user is not kept)
            continue
        for user in [user for user in written.users if user > node]:
            user.replace_input_with(written, node)
    for module in switched_off:
        module.inplace = False  # type: ignore[assignment]
    _keep_stored_tensors(changed)
    changed.recompile()
    return changed


def _keep_stored_tensors(graph_module: fx.GraphModule) -> None:
    """Let each run write to a copy of its own of the stored tensors that it writes to: every run
    is then a first call, whatever ran before."""
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


def _base(graph_module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The value whose memory `node` has, or writes to."""
    given = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    base = given if given is not None and _writes(node) else node
    while (viewed := _viewed(graph_module, base)) is not None:
        base = viewed
    return base


def _writes(node: fx.Node) -> bool:
    if node.target is operator.setitem:
        return True
    packet = getattr(node.target, "overloadpacket", node.target)
    name = packet if isinstance(packet, str) else getattr(packet, "__name__", "")
    return node.op in ("call_function", "call_method") and _is_in_place_name(name)


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
    if module is not None:
        name = type(module).__name__
    elif isinstance(node.target, str):
        name = node.target if node.op == "call_method" else ""
    else:
        packet = getattr(node.target, "overloadpacket", node.target)
        name = getattr(packet, "__name__", "")
    shares = name in _VIEWS or _is_in_place_name(name)  # what is left to write in place gives it on
    given = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    return given if shares and isinstance(given, fx.Node) else None


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
