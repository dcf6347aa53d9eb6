"""Run passes one after another, and hold each to what it declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sepify.errors import PassError, SepifyError

Pass = Callable[[fx.GraphModule], fx.GraphModule]


@dataclass(frozen=True)
class Step:
    """A pass with its options bound, under the name that errors use, and what it declares: to leave
    its input alone and return a new graph module, or to change its input and return that."""

    name: str
    run: Pass
    in_place: bool = False


def run_passes(graph_module: fx.GraphModule, steps: Sequence[Step]) -> fx.GraphModule:
    """Apply `steps` in order, each to what the one before returned.

    After each: a pass that is not declared in place has left its input as it was (graph, modules,
    modes, every bit of parameters and buffers) and shares no memory with it, one that is has
    returned it; the graph passes fx's lint, the inputs are those it had, and parameters and buffers
    are finite where they were. Raises PassError naming the pass and those already run; a pass's
    own SepifyError goes through.
    """
    done: list[str] = []
    for step in steps:
        where = f"pass '{step.name}' (after {', '.join(done) or 'none'})"
        before = _Before(graph_module, keep=not step.in_place)
        try:
            result = step.run(graph_module)
        except SepifyError:
            raise
        except Exception as error:
            raise PassError(f"{where} failed: {type(error).__name__}: {error}") from error
        told = _broken_promise(step, graph_module, result, before)
        told = told or _unsound(result, before)
        if told is not None:
            raise PassError(f"{where} {told}")
        graph_module = result
        done.append(step.name)
    return graph_module


class _Before:
    """What a graph module was before a pass: inputs, what is not finite; and all, to `keep` it."""

    def __init__(self, graph_module: fx.GraphModule, keep: bool) -> None:
        self.inputs = _inputs(graph_module)
        self.poisoned = {name for name, value in _tensors(graph_module).items() if _is_bad(value)}
        self.structure = _structure(graph_module) if keep else None
        tensors = _tensors(graph_module) if keep else {}
        self.tensors = {name: (value, value.detach().clone()) for name, value in tensors.items()}

    def changed_in(self, graph_module: fx.GraphModule) -> str | None:
        """What is otherwise now, in words."""
        now = _tensors(graph_module)
        for name, (tensor, value) in self.tensors.items():
            if now.get(name) is not tensor or not _same_bits(tensor.detach(), value):
                return f"'{name}'"
        return None if _structure(graph_module) == self.structure else "its graph or its modules"


def _broken_promise(step: Step, given: fx.GraphModule, result: Any, before: _Before) -> str | None:
    if not isinstance(result, fx.GraphModule):
        return f"returned a {type(result).__name__}, not a GraphModule"
    if step.in_place:
        return None if result is given else "is declared in place and returned another graph module"
    if result is given:
        return "returned its input, and is not declared in place"
    changed = before.changed_in(given)
    if changed is not None:
        return f"changed {changed} of its input, and is not declared in place"
    theirs = {_memory(tensor) for tensor in _tensors(given).values() if tensor.numel()}
    ours = _tensors(result).items()
    shared = next((name for name, t in ours if t.numel() and _memory(t) in theirs), None)
    return None if shared is None else f"shares '{shared}' with its input, instead of a copy"


def _unsound(after: fx.GraphModule, before: _Before) -> str | None:
    try:
        after.graph.lint()
    except Exception as error:  # RuntimeError, and whatever a missing module raises
        return f"left a broken graph: {error}"
    if _inputs(after) != before.inputs:
        return f"changed the inputs: {before.inputs} to {_inputs(after)}"
    for name, tensor in _tensors(after).items():
        if name not in before.poisoned and _is_bad(tensor):
            return f"left NaN or infinity in '{name}'"
    return None


def _structure(graph_module: fx.GraphModule) -> Any:
    nodes = [
        (node.op, node.name, str(node.target), str(node.args), str(node.kwargs))
        for node in graph_module.graph.nodes
    ]
    modules = [
        (path, id(module), type(module), module.training)
        for path, module in graph_module.named_modules(remove_duplicate=False)
    ]
    learning = [(name, p.requires_grad) for name, p in graph_module.named_parameters()]
    return nodes, modules, learning, graph_module.code


def _tensors(graph_module: fx.GraphModule) -> dict[str, Tensor]:
    return {**dict(graph_module.named_parameters()), **dict(graph_module.named_buffers())}


def _memory(tensor: Tensor) -> Any:
    strided = tensor.layout is torch.strided and not tensor.is_meta
    return tensor.untyped_storage()._cdata if strided else id(tensor)


def _is_bad(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())


def _same_bits(now: Tensor, before: Tensor) -> bool:
    if now.shape != before.shape or now.dtype != before.dtype:
        return False
    if torch.equal(now, before):
        return True
    return now.is_floating_point() and torch.equal(now.nan_to_num(), before.nan_to_num())


def _inputs(graph_module: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "placeholder"]
