"""Run passes one after another, and hold each to what it declares."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sepify.errors import PassError, SepifyError
from sepify.passes.base import Condition, Pass, Result
from sepify.passes.dump import current_dump
from sepify.passes.fingerprint import fingerprint, is_finite, tensors_of


@dataclass(frozen=True)
class Applied:
    """A pass that ran, by name: whether it changed anything, and why it left sites alone."""

    name: str
    changed: bool
    left_alone: Mapping[str, str]


@dataclass(frozen=True)
class Run:
    """What passes made of a graph, and what each of them did, in order."""

    graph_module: fx.GraphModule
    applied: tuple[Applied, ...]

    @property
    def changed(self) -> bool:
        """Whether any pass changed anything."""
        return any(applied.changed for applied in self.applied)


def run_passes(graph_module: fx.GraphModule, passes: Sequence[Pass]) -> Run:
    """Apply `passes` in order, each to what the one before returned.

    The graph module that is given is never changed: a pass in place that comes first works on a
    copy. Around each pass it is checked that

    - what it requires holds before, and what it ensures holds after;
    - one that is not declared in place left its input as it was (graph, modules, modes, every bit
      of parameters and buffers) and shares no memory with it; one that is returned it;
    - nothing is otherwise where it says that it changed nothing;
    - the graph passes fx's lint, the inputs are those it had, and parameters and buffers are finite
      where they were.

    Args:
        graph_module: the graph.
        passes: in the order to apply them, such as `sepify.passes.pipelines.COMPILE`.

    Returns:
        The last graph, and of each pass what it did and why it left sites alone.

    Raises:
        PassError: a pass breaks any of it, or fails; names it and those already run.
        SepifyError: a pass's own goes through.
    """
    dump = current_dump()
    if dump is not None:
        dump.write("input", graph_module)
    before = _Seen(graph_module)
    current, applied = graph_module, list[Applied]()
    for item in passes:
        where = f"pass '{item.name}' (after {', '.join(a.name for a in applied) or 'none'})"
        broken = _first_broken(item.requires, current)
        if broken is not None:
            raise PassError(f"{where} requires that {broken}")
        given = copy.deepcopy(current) if item.in_place and current is graph_module else current
        try:
            result = item.apply(given)
        except SepifyError:
            raise
        except Exception as error:
            raise PassError(f"{where} failed: {type(error).__name__}: {error}") from error
        told = _broken_promise(item, given, result, before)
        if told is None:
            after = _Seen(result.graph_module, before)
            told = _unsound(item, result, before, after)
        if told is not None:
            raise PassError(f"{where} {told}")
        current, before = result.graph_module, after
        applied.append(Applied(item.name, result.changed, dict(result.left_alone)))
        if dump is not None:
            dump.write(item.name, current, result)
    return Run(current, tuple(applied))


class _Seen:
    """A graph module as it was when it was looked at: inputs, structure, the bits of its tensors,
    and which of them are not finite."""

    def __init__(self, graph_module: fx.GraphModule, before: _Seen | None = None) -> None:
        tensors = tensors_of(graph_module)
        self.inputs = _inputs(graph_module)
        self.identities = {path: id(module) for path, module in _modules(graph_module)}
        self.structure = _structure(graph_module)
        self.objects = tensors  # held, so that no other gets their identity
        self.bits = {name: fingerprint(tensor) for name, tensor in tensors.items()}
        known = before.bits if before is not None else dict[str, Hashable]()
        spoilt = before.spoilt if before is not None else frozenset[str]()
        self.spoilt: frozenset[str] = frozenset(
            name
            for name, tensor in tensors.items()
            if (name in spoilt if known.get(name) == self.bits[name] else not is_finite(tensor))
        )

    def changed_in(self, graph_module: fx.GraphModule) -> str | None:
        """What is otherwise now in the very graph module that was looked at, in words."""
        now = tensors_of(graph_module)
        for name, tensor in self.objects.items():
            if now.get(name) is not tensor or fingerprint(tensor) != self.bits[name]:
                return f"'{name}'"
        same = self.structure == _structure(graph_module) and self.identities == {
            path: id(module) for path, module in _modules(graph_module)
        }
        return None if same else "its graph or its modules"

    def difference(self, other: _Seen) -> str | None:
        """Where another graph module is otherwise, in words; objects need not be the same."""
        for name in {**self.bits, **other.bits}:
            if self.bits.get(name) != other.bits.get(name):
                return f"'{name}'"
        return None if self.structure == other.structure else "the graph or the modules"


def _broken_promise(item: Pass, given: fx.GraphModule, result: Any, before: _Seen) -> str | None:
    if not isinstance(result, Result):
        return f"returned a {type(result).__name__}, not a Result"
    made = result.graph_module
    if not isinstance(made, fx.GraphModule):
        return f"returned a {type(made).__name__}, not a GraphModule"
    if item.in_place:
        return None if made is given else "is declared in place and returned another graph module"
    if made is given:
        return "returned its input, and is not declared in place"
    changed = before.changed_in(given)
    if changed is not None:
        return f"changed {changed} of its input, and is not declared in place"
    theirs = {_memory(tensor) for tensor in before.objects.values() if tensor.numel()}
    ours = tensors_of(made).items()
    shared = next((name for name, t in ours if t.numel() and _memory(t) in theirs), None)
    return None if shared is None else f"shares '{shared}' with its input, instead of a copy"


def _unsound(item: Pass, result: Result, before: _Seen, after: _Seen) -> str | None:
    try:
        result.graph_module.graph.lint()
    except Exception as error:  # RuntimeError, and whatever a missing module raises
        return f"left a broken graph: {error}"
    if after.inputs != before.inputs:
        return f"changed the inputs: {before.inputs} to {after.inputs}"
    spoilt = next((name for name in after.bits if name in after.spoilt - before.spoilt), None)
    if spoilt is not None:
        return f"left NaN or infinity in '{spoilt}'"
    otherwise = None if result.changed else before.difference(after)
    if otherwise is not None:
        return f"changed {otherwise}, and says that it changed nothing"
    broken = _first_broken(item.ensures, result.graph_module)
    return None if broken is None else f"does not ensure that {broken}"


def _first_broken(conditions: Sequence[Condition], graph_module: fx.GraphModule) -> str | None:
    for condition in conditions:
        place = condition.broken_at(graph_module)
        if place is not None:
            return f"{condition.words}: '{place}' is otherwise"
    return None


def _structure(graph_module: fx.GraphModule) -> Any:
    nodes = [
        (node.op, node.name, str(node.target), str(node.args), str(node.kwargs))
        for node in graph_module.graph.nodes
    ]
    modules = [(path, str(type(m)), m.training) for path, m in _modules(graph_module)]
    learning = [(name, p.requires_grad) for name, p in graph_module.named_parameters()]
    return nodes, modules, learning, graph_module.code


def _modules(graph_module: fx.GraphModule) -> list[tuple[str, torch.nn.Module]]:
    return list(graph_module.named_modules(remove_duplicate=False))


def _memory(tensor: Tensor) -> Any:
    strided = tensor.layout is torch.strided and not tensor.is_meta
    return tensor.untyped_storage()._cdata if strided else id(tensor)


def _inputs(graph_module: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "placeholder"]
