"""The part of a student before any rewritten layer: it computes what the original does."""

from __future__ import annotations

from torch import fx, nn

from sepify.graph.modules import called_module
from sepify.passes.separate import chains


def freeze_unchanged(student: fx.GraphModule) -> tuple[nn.Module, ...]:
    """Freeze the parameters of that part and return its modules, for evaluation mode.

    What is also used in or after a rewritten layer goes on learning. With nothing to learn before
    the first rewritten layer, backpropagation ends there.
    """
    changed = _changed(student)
    learning: set[int] = set()
    unchanged: dict[str, nn.Module] = {}
    for node in student.graph.nodes:
        module = called_module(student, node)
        if node in changed:
            learning |= _parameters(student, node)
        elif module is not None:
            unchanged[str(node.target)] = module
    for parameter in student.parameters():
        if id(parameter) not in learning:
            parameter.requires_grad_(False)
    used = {id(called_module(student, node)) for node in changed}
    return tuple(module for module in unchanged.values() if id(module) not in used)


def _changed(student: fx.GraphModule) -> set[fx.Node]:
    """The nodes in and after rewritten layers."""
    rewritten = tuple(f"{name}." for name in chains(student))
    changed: set[fx.Node] = set()
    for node in student.graph.nodes:
        inside = str(node.target).startswith(rewritten)
        if inside or _holds_one(called_module(student, node)) or changed & {*node.all_input_nodes}:
            changed.add(node)
    return changed


def _holds_one(module: nn.Module | None) -> bool:
    """Whether a module that the graph calls as a whole has a rewritten layer inside."""
    inside = () if module is None else module.modules()
    return any({"depthwise", "pointwise"} <= part._modules.keys() for part in inside)


def _parameters(student: fx.GraphModule, node: fx.Node) -> set[int]:
    """Those of the module that a node calls, and those that it takes as they are."""
    module = called_module(student, node)
    found = set() if module is None else {id(p) for p in module.parameters()}
    taken = [before for before in (node, *node.all_input_nodes) if before.op == "get_attr"]
    for name in (str(before.target) for before in taken):
        owner, _, leaf = name.rpartition(".")
        found.add(id(getattr(student.get_submodule(owner), leaf)))
    return found
