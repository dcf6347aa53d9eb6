"""An exported program's graph, built anew as a graph module that can be trained and saved."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputSpec, OutputKind
from torch.utils import _pytree as pytree

from sepify.capture.exported.guards import emit_guards
from sepify.capture.exported.operators import plain_call, require_plain
from sepify.capture.exported.program import STORED, input_specs, stored_tensor
from sepify.capture.raising import LAYER
from sepify.capture.torchscript.attributes import identity

# regions that change how, not what, is computed: gradients off, automatic mixed precision
_REGIONS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


@dataclass(frozen=True)
class Rebuilt:
    """A graph module of torch's functions on get_attr nodes, and what later steps want to know."""

    graph_module: fx.GraphModule
    ranks: dict[fx.Node, int]  # dimensions of the tensor that a node computes
    state: dict[str, Tensor]  # every parameter and buffer of the original
    notes: tuple[str, ...]


def rebuild(program: ExportedProgram, name: str = "Exported") -> Rebuilt:
    """Build `program`, which is not changed, anew under the class name `name`.

    Sizes that torch.export fixed, and decisions that it took by a size, become notes and runtime
    checks. Raises CaptureError for what an ordinary graph cannot hold.
    """
    builder = _Builder(program)
    for node in program.graph.nodes:
        builder.add(node)
    graph_module = fx.GraphModule(builder.root, builder.graph, name)
    state = {key: value for key, value in program.state_dict.items() if isinstance(value, Tensor)}
    notes = tuple(dict.fromkeys(builder.notes))
    return Rebuilt(graph_module, builder.ranks, state, notes)


class _Builder:
    """The graph under construction and the modules that hold its tensors."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.ranks: dict[fx.Node, int] = {}
        self.notes: list[str] = []
        self._specs = {str(spec.arg.name): spec for spec in input_specs(program)}
        self._inputs: dict[str, fx.Node] = {}
        self._checked = False
        self._new: dict[fx.Node, Any] = {}
        self._clones: dict[object, Tensor] = {}  # tied weights stay tied
        self._names: dict[object, str] = {}  # of a shared tensor the first counts
        for name, tensor in program.state_dict.items():
            self._names.setdefault(identity(tensor), name)

    def add(self, node: fx.Node) -> None:
        """Add what stands for `node` of the program."""
        if node.op == "placeholder":
            self._placeholder(node, self._specs[node.name])
            return
        if not self._checked:  # before anything is computed from sizes that do not fit
            self._checked = True
            self._check_sizes()
        if node.op == "output":
            self._output(node)
        elif node.op == "call_function":
            self._new[node] = self._call(node)

    def _placeholder(self, node: fx.Node, spec: InputSpec) -> None:
        if spec.kind in STORED:
            if node.users:
                self._new[node] = self._stored(spec)
        elif isinstance(spec.arg, ConstantArgument):
            self._new[node] = spec.arg.value
            self.notes.append(f"argument '{node.name}' is fixed at {spec.arg.value!r}")
        else:
            self._new[node] = self._inputs[node.name] = self.graph.placeholder(node.name)
            self._remember(self._new[node], node)

    def _stored(self, spec: InputSpec) -> fx.Node:
        tensor = stored_tensor(self.program, str(spec.target))
        key = identity(tensor)
        path = self._names.get(key, str(spec.target))
        if key not in self._clones:
            self._clones[key] = _clone(tensor)
        *parents, leaf = path.split(".")
        owner = self.root
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Module())
            owner = owner.get_submodule(parent)
        held = self._clones[key]
        if isinstance(held, nn.Parameter):
            owner.register_parameter(leaf, held)
        else:
            owner.register_buffer(leaf, held, persistent=bool(spec.persistent))
        return self.graph.create_node("get_attr", path)

    def _call(self, node: fx.Node) -> Any:
        region = getattr(node.target, "__name__", "")
        if region in _REGIONS:
            return self._inlined(node, region)
        require_plain(node.target)
        args, kwargs = self._mapped(node.args), self._mapped(node.kwargs)
        if node.target is operator.getitem and isinstance(args[0], (list, tuple)):
            return args[0][args[1]]
        call = plain_call(self.graph, node.target, args, dict(kwargs))
        if not isinstance(call, tuple):
            return call
        new = self.graph.create_node(*call)
        self._remember(new, node)
        return new

    def _inlined(self, node: fx.Node, region: str) -> Any:
        """A region's own graph in place of the call of it."""
        settings, (body, *given) = node.args[: _REGIONS[region]], node.args[_REGIONS[region] :]
        assert isinstance(body, fx.Node)
        inner = self.program.graph_module.get_submodule(str(body.target))
        assert isinstance(inner, fx.GraphModule)
        arguments = iter(given)
        for step in inner.graph.nodes:
            if step.op == "placeholder":
                self._new[step] = self._mapped(next(arguments))
            elif step.op == "output":
                result = self._mapped(step.args[0])
            elif step.op == "call_function":
                self._new[step] = self._call(step)
        what = "gradients off" if region == "wrap_with_set_grad_enabled" else "automatic precision"
        self.notes.append(f"a part of the model runs with {what} {settings}; the graph does not")
        return result

    def _check_sizes(self) -> None:
        guards = list(getattr(self.program, "_guards_code", ()))
        for node in self.program.graph.find_nodes(op="placeholder"):
            if node.name in self._inputs and node.users:
                shape = getattr(node.meta.get("val"), "shape", ())
                fixed = [d for d, n in enumerate(shape) if isinstance(n, int)]
                guards += [
                    f"L['{node.name}'].size()[{d}] == {shape[d]}"
                    for d in fixed
                    if _may_vary(d, shape)
                ]
        self.notes += emit_guards(self.graph, guards, self._inputs)

    def _output(self, node: fx.Node) -> None:
        signature = self.program.graph_signature
        flat = list(node.args[0])  # type: ignore[arg-type]
        user = []
        for spec, value in zip(signature.output_specs, flat, strict=True):
            new = self._mapped(value)
            if spec.kind is OutputKind.USER_OUTPUT:
                user.append(new)
            elif spec.kind is OutputKind.BUFFER_MUTATION:
                buffer = self.graph.create_node("get_attr", str(spec.target))
                self.graph.call_function(torch.ops.aten.copy_, (buffer, new))
            elif spec.kind is OutputKind.USER_INPUT_MUTATION:
                written = self._inputs[str(spec.target)]
                self.graph.call_function(torch.ops.aten.copy_, (written, new))
        structured = pytree.tree_unflatten(user, self.program.call_spec.out_spec)
        self.graph.output(output_argument(self.graph, structured))

    def _mapped(self, value: Any) -> Any:
        return fx.map_arg(value, self._new.__getitem__)

    def _remember(self, new: fx.Node, node: fx.Node) -> None:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            self.ranks[new] = value.dim()
        stack = node.meta.get("nn_module_stack")
        if stack:
            path, _ = list(stack.values())[-1]
            new.meta[LAYER] = str(path)


def _may_vary(dim: int, shape: Sequence[Any]) -> bool:
    """Whether another size would be an input of the same kind: not the channels of images."""
    return dim != 1 or len(shape) < 4


def output_argument(graph: fx.Graph, value: Any) -> Any:
    """`value` as an output of `graph`: a dataclass, which no node can hold, is constructed."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        made = {name: output_argument(graph, item) for name, item in fields.items()}
        return graph.call_function(type(value), (), made)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[output_argument(graph, item) for item in value])
    if isinstance(value, (list, tuple)):
        return type(value)(output_argument(graph, item) for item in value)
    if isinstance(value, dict):
        return {key: output_argument(graph, item) for key, item in value.items()}
    return value


def _clone(tensor: Tensor) -> Tensor:
    copied = tensor.detach().clone()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, requires_grad=tensor.requires_grad)
    return copied
