"""The interpreter: one pass over the inlined graph, a node at a time."""

from __future__ import annotations

import keyword
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from sepify.capture.torchscript.attributes import Attributes, state_of
from sepify.capture.torchscript.control import CONTROL
from sepify.capture.torchscript.machine import Machine
from sepify.capture.torchscript.numbers import (
    arithmetic,
    as_tensor,
    convert,
    is_arithmetic,
    same_lists,
)
from sepify.capture.torchscript.operators import operator_of
from sepify.capture.torchscript.recorder import Recorder
from sepify.capture.torchscript.scalars import ARITHMETIC, CONTAINERS, IDENTITIES, PLAIN, RANGES
from sepify.capture.torchscript.source import source_line
from sepify.capture.torchscript.structure import QUESTIONS, STRUCTURE, container, plain
from sepify.capture.torchscript.values import Traced, is_known, is_number, leaves
from sepify.errors import CaptureError
from sepify.graph.copying import copy_module
from sepify.graph.inputs import forward_arguments
from sepify.graph.modes import give_modes, is_training

_TO_NUMBER: dict[str, type | None] = {
    "aten::Int": int,
    "aten::Float": float,
    "aten::Bool": bool,
    "aten::item": None,
    "aten::ScalarImplicit": None,
    "aten::IntImplicit": int,
    "aten::FloatImplicit": float,
}


@dataclass(frozen=True)
class Imported:
    """A graph module of aten calls on get_attr nodes, and what later steps want to know."""

    graph_module: fx.GraphModule
    ranks: dict[fx.Node, int]  # dimensions of the tensor that a node computes
    state: dict[str, Tensor]  # every parameter and buffer of the original
    notes: tuple[str, ...]


def import_torchscript(model: torch.jit.ScriptModule, inputs: Sequence[Tensor]) -> Imported:
    """Import `model`, which is not changed, following the path that `inputs` take.

    Raises CaptureError naming the source line for what no graph can express.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        working = copy_module(model)
        script_graph = working.inlined_graph  # a temporary: nodes die with it
    graph = fx.Graph()
    attributes = Attributes(model, working, graph)
    machine = Interpreter(attributes, Recorder(graph, attributes))
    devices = sorted({x.device.index or 0 for x in inputs if x.device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        arguments: list[Any] = [attributes.root]
        for index, argument in enumerate(forward_arguments(model)):
            if index < len(inputs):
                value = machine.recorder.input(_identifier(argument.name), inputs[index].clone())
            else:
                value = argument.default_value
            arguments.append(value)
        (output,) = machine.run_block(script_graph, arguments)
    if is_known(output):
        raise CaptureError("the model's output does not depend on its input; there is no graph")
    graph.output(machine.recorder.argument(output))
    graph.eliminate_dead_code()
    graph_module = fx.GraphModule(attributes.build(), graph, _class_name(model))
    give_modes(graph_module, {}, is_training(model))
    notes = tuple(dict.fromkeys(machine.recorder.notes))
    return Imported(graph_module, machine.recorder.ranks, state_of(model), notes)


class Interpreter(Machine):
    """Values by name, and the rules by which a node makes new ones."""

    def __init__(self, attributes: Attributes, recorder: Recorder) -> None:
        super().__init__(attributes, recorder)
        self._values: dict[str, Any] = {}

    def run_block(self, block: Any, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Run the nodes of a graph or block; the values of its outputs."""
        for value, argument in zip(block.inputs(), arguments, strict=True):
            self._values[value.debugName()] = argument
        for node in block.nodes():
            results = self._step(node, [self._values[v.debugName()] for v in node.inputs()])
            for value, result in zip(node.outputs(), results, strict=True):
                self._values[value.debugName()] = result
        return tuple(self._values[value.debugName()] for value in block.outputs())

    def _step(self, node: Any, values: list[Any]) -> tuple[Any, ...]:
        kind: str = node.kind()
        handler = STRUCTURE.get(kind) or CONTROL.get(kind)
        if handler is not None:
            return handler(self, node, values)
        first = values[0] if values else None
        if kind in QUESTIONS and _is_tensor(first):
            return QUESTIONS[kind](self, node, values)
        if kind in CONTAINERS and isinstance(first, (list, tuple, dict, str)):
            return container(self, node, values)
        name = kind.partition("::")[2]
        if kind in _TO_NUMBER and _is_tensor(first):
            number = self.recorder.function("item", self.tensor(first))
            wanted = _TO_NUMBER[kind]
            return (number if wanted is None else convert(self, wanted, number),)
        if kind in IDENTITIES and (is_number(first) or kind.startswith("prim::")):
            return (first,)
        if is_arithmetic(name, values):
            return (arithmetic(self, node, name, values),)
        if kind == "aten::tensor" and isinstance(first, list) and not is_known(first):
            return (as_tensor(self, first),)
        if kind == "aten::tensor" and isinstance(first, Traced):
            return (self.recorder.scalar_tensor(first),)
        if name in ARITHMETIC and not any(_is_tensor(leaf) for leaf in leaves(values)):
            if name in ("eq", "ne") and all(isinstance(value, list) for value in values):
                return (same_lists(self, name, *values),)
            # two strings, two devices, lists in order
            return (ARITHMETIC[name](*[self.known(value, node) for value in values]),)
        if (kind in PLAIN or kind in RANGES) and not any(map(_is_tensor, values)):
            return plain(self, node, values)
        if kind.startswith("quantized::"):
            raise CaptureError(
                f"the file is quantised (operator {kind}, {source_line(node)}); give the "
                "floating-point model and quantise the converted one"
            )
        if not kind.startswith("aten::") or node.schema() == "(no schema)":
            raise CaptureError(
                f"TorchScript operator {kind} is not supported ({source_line(node)}); "
                "rewrite that line with plain tensor operations and save again"
            )
        result = self.recorder.operator(operator_of(node.schema()), values, node)
        if not isinstance(result, tuple):
            return (result,)
        # Python's bindings return a tuple where TorchScript has one list (chunk, unbind)
        return (list(result),) if node.outputsSize() == 1 else result


def _is_tensor(value: Any) -> bool:
    return isinstance(value.concrete if isinstance(value, Traced) else value, Tensor)


def _identifier(name: str) -> str:
    name = re.sub(r"\W", "_", name.split(".")[0])
    return f"{name}_" if keyword.iskeyword(name) or name == "self" else name


def _class_name(model: torch.jit.ScriptModule) -> str:
    return re.sub(r"\W", "_", str(getattr(model, "original_name", ""))) or "TorchScript"
