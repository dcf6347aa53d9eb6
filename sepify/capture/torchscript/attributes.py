"""Parameters, buffers and submodules of the TorchScript module, under their original names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.capture.functional import CONSTANT_PREFIX
from sepify.capture.supported import require_quotable
from sepify.capture.torchscript.values import Dependence, ModuleRef, Traced


class Attributes:
    """Resolves attribute access during an import; afterwards, builds the modules that hold what
    was used.

    Evaluation reads (and may write) the tensors of `working`, a throw-away copy; what is built at
    the end is cloned from `original`.
    """

    def __init__(
        self, original: torch.jit.ScriptModule, working: torch.jit.ScriptModule, graph: fx.Graph
    ) -> None:
        self._graph = graph
        self._state = state_of(original)
        self._root = working._c
        # a shared tensor has several paths; the first in registration order names it
        self._names: dict[Any, str] = {}
        for name, tensor in state_of(working).items():
            self._names.setdefault(identity(tensor), name)
        self._traced: dict[str, Traced] = {}
        self._containers: dict[int, Any] = {}  # held, so that no id is given twice
        self._constants: dict[int, tuple[Tensor, str]] = {}
        self._set: dict[tuple[Any, str], Any] = {}  # by the run, of (object, attribute)
        self._read: set[tuple[Any, str]] = set()  # by the run, before it set them

    @property
    def root(self) -> ModuleRef:
        """The module itself, the first input of its graph."""
        return ModuleRef(self._root, "")

    def get(self, owner: ModuleRef, name: str) -> Any:
        """The value of `owner.name`: a submodule, a tensor with its get_attr node, a constant, or
        what the run has set it to."""
        key = (owner.handle, name)
        if key in self._set:
            return self._set[key]
        self._read.add(key)
        return self._given(owner, name)

    def set(self, owner: ModuleRef, name: str, value: Any) -> bool:
        """Let later reads of `owner.name` have `value`. Not if the run has read it before, which
        was then what an earlier call had left: False."""
        key = (owner.handle, name)
        if key not in self._read:
            self._set[key] = value
        return key in self._set

    def buffer(self, owner: ModuleRef, name: str) -> Traced | None:
        """`owner.name` if it is a tensor that the model keeps and the run has not set anew."""
        if (owner.handle, name) in self._set:
            return None
        value = self._given(owner, name)
        return value if isinstance(value, Traced) else None

    def _given(self, owner: ModuleRef, name: str) -> Any:
        value = owner.handle.getattr(name)
        if isinstance(value, torch._C.ScriptObject):
            return ModuleRef(value, owner.child(name))
        if isinstance(value, Tensor):
            return self._stored(self._names.get(identity(value), owner.child(name)), value)
        if isinstance(value, (list, dict, tuple)):
            self._containers |= {id(container): container for container in _containers_in(value)}
        return value

    def holds(self, value: Any) -> bool:
        """Whether `value` is a list or dict that the model keeps, or one within such a one."""
        return id(value) in self._containers

    def constant(self, tensor: Tensor) -> Traced:
        """A tensor that the file holds without a name; the same tensor is the same buffer."""
        known = self._constants.get(id(tensor))
        if known is None:
            known = (tensor, f"{CONSTANT_PREFIX}{len(self._constants)}")
            self._constants[id(tensor)] = known
        return self._stored(known[1], tensor)

    def build(self) -> nn.Module:
        """A module that holds a clone of every tensor that the graph reads, at its path."""
        root = nn.Module()
        constants = {name: tensor for tensor, name in self._constants.values()}
        used = {str(node.target) for node in self._graph.nodes if node.op == "get_attr"}
        for path, traced in self._traced.items():
            if path not in used:
                continue
            stored = constants.get(path)
            if stored is None:
                stored = self._state.get(path, traced.concrete)
            *parents, leaf = path.split(".")
            owner = root
            for parent in parents:
                if parent not in owner._modules:
                    owner.add_module(parent, nn.Module())
                owner = owner.get_submodule(parent)
            if isinstance(stored, nn.Parameter):
                owner.register_parameter(leaf, _clone_parameter(stored))
            else:
                owner.register_buffer(leaf, stored.detach().clone())
        return root

    def _stored(self, path: str, value: Tensor) -> Traced:
        if path not in self._traced:
            require_quotable(path)
            node = self._graph.create_node("get_attr", path)
            self._traced[path] = Traced(value, node, Dependence.FIXED)
        return self._traced[path]


def _containers_in(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, dict, tuple)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers_in(item)


def state_of(module: torch.jit.ScriptModule) -> dict[str, Tensor]:
    """Every parameter (as nn.Parameter) and buffer under each of its paths.

    A loaded file's parameters come as plain tensors; which list they are in tells them apart.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in module.named_parameters(remove_duplicate=False):
        state[name] = tensor if isinstance(tensor, nn.Parameter) else _as_parameter(tensor)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        state.setdefault(name, buffer)
    return state


def _as_parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)


def _clone_parameter(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)


def identity(tensor: Tensor) -> Any:
    """What two paths to one tensor share: after loading they are different Python objects, so
    the memory is compared."""
    if tensor.layout != torch.strided or tensor.numel() == 0:
        return id(tensor)
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.dtype,
        tuple(tensor.shape),
        tuple(tensor.stride()),
    )
