"""Everything that a model holds and reaches, to see that nothing of it has changed."""

from __future__ import annotations

import hashlib
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

LEAVES = (int, float, str, bytes, bool, complex, type(None), torch.dtype, torch.device, torch.Size)


def snapshot(thing: Any, seen: dict[int, int] | None = None) -> Any:
    """Everything that `thing` holds and reaches, as plain values that can be compared."""
    seen = {} if seen is None else seen
    if isinstance(thing, LEAVES):
        return thing
    if id(thing) in seen:
        return ("seen", seen[id(thing)])
    seen[id(thing)] = len(seen)
    if isinstance(thing, Tensor):
        return _tensor(thing, seen)
    if isinstance(thing, ExportedProgram):
        return (str(thing.graph), snapshot(dict(thing.state_dict), seen), snapshot(thing.constants))
    if isinstance(thing, torch.jit.ScriptModule):
        modes = [getattr(module, "training", None) for module in thing.modules()]
        state = {n: (t.tolist(), t.data_ptr()) for n, t in thing.state_dict().items()}
        return (state, thing.code, str(thing.graph), modes)  # whose Python objects come and go
    if isinstance(thing, dict):
        return [(snapshot(k, seen), snapshot(v, seen)) for k, v in thing.items()]
    if isinstance(thing, (list, tuple, set, frozenset)):
        return [snapshot(item, seen) for item in thing]
    if isinstance(thing, types.FunctionType):
        cells = [snapshot(cell.cell_contents, seen) for cell in thing.__closure__ or ()]
        return (id(thing), cells, snapshot(thing.__defaults__, seen))
    if isinstance(thing, types.MethodType):
        return (snapshot(thing.__func__, seen), snapshot(thing.__self__, seen))
    if isinstance(thing, torch.fx.Graph):
        return str(thing)
    if isinstance(thing, (type, types.BuiltinFunctionType)):
        return id(thing)
    held = snapshot(vars(thing), seen) if hasattr(thing, "__dict__") else id(thing)
    classes = [_class(kind) for kind in type(thing).mro()] if isinstance(thing, nn.Module) else ()
    return (id(thing), classes, held)


def _tensor(tensor: Tensor, seen: dict[int, int]) -> Any:
    memory = tensor.untyped_storage()
    return (
        *(id(tensor), id(type(tensor)), tensor.dtype, tensor.shape, tensor.stride()),
        *(tensor.storage_offset(), memory.data_ptr(), _digest(memory), tensor.is_leaf),
        *(tensor.requires_grad, tensor._version),
        snapshot(tensor.grad if tensor.is_leaf else None, seen),
        snapshot(tensor._backward_hooks, seen),
    )


def _digest(memory: torch.UntypedStorage) -> bytes:
    octets = torch.empty(0, dtype=torch.uint8).set_(memory, 0, (memory.nbytes(),))
    return hashlib.sha256(octets.numpy()).digest()


def _class(kind: type) -> Any:
    data = {name: value for name, value in vars(kind).items() if not name.startswith("__")}
    plain = {n: v for n, v in data.items() if isinstance(v, (*LEAVES, list, dict, set))}
    return (id(kind), [(name, id(value)) for name, value in data.items()], snapshot(plain))
