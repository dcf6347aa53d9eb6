"""Deep copies of models: what copy.deepcopy gives, in a fraction of its time."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn

from sepify.errors import CaptureError, first_line
from sepify.graph.closures import Closures

M = TypeVar("M", bound=nn.Module)

# copied by reference, as copy.deepcopy does with them
_IMMUTABLE = frozenset({bool, int, float, str, type(None), type, torch.dtype, torch.device})
_REGISTRIES = frozenset({dict, OrderedDict, set, list})
_OF_TENSORS_AND_MODULES = frozenset({"_parameters", "_buffers", "_modules"})


def copy_module(model: M) -> M:
    """A deep copy that shares no tensor with `model`; CaptureError if it cannot be copied."""
    return cast(M, _copied_or_refused(model, _copied, {}))


def copy_to_run(model: M) -> M:
    """As `copy_module`, for one run: a graph module's copy shares its code, which to compile again
    costs more than all the rest."""
    if not isinstance(model, fx.GraphModule):
        return copy_module(model)
    shared = {id(value): value for value in (model.graph, model.meta)}
    return cast(M, _copied_or_refused(model, _copied_attributes, shared))


def _copied_or_refused(
    model: nn.Module,
    copied: Callable[[nn.Module, dict[int, Any]], nn.Module],
    memo: dict[int, Any],
) -> nn.Module:
    # weight_norm and spectral_norm leave a computed, non-leaf `weight` behind, which deepcopy
    # refuses: hand it the copy of that tensor beforehand. Likewise of functions.
    closures = Closures(memo)
    for module in model.modules():
        for name, value in vars(module).items():
            if type(value) in _IMMUTABLE or name in _OF_TENSORS_AND_MODULES:
                continue
            if isinstance(value, Tensor):
                if not value.is_leaf:
                    memo[id(value)] = value.detach().clone()
            else:
                closures.find(value)
    try:
        copied_model = copied(model, memo)
        closures.fill()
        return copied_model
    except Exception as error:  # deepcopy runs whatever __deepcopy__ or __reduce__ a model has
        raise CaptureError(
            f"the model ({type(model).__name__}) cannot be deep-copied, and sepify never works on "
            f"the one it was given: {first_line(error)}"
        ) from error


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """copy.deepcopy, which spends most of its time on the empty registries and the settings of a
    module, with those and the dicts of parameters and submodules copied by hand."""
    known = memo.get(id(module))
    if known is not None:
        return cast(nn.Module, known)
    if isinstance(module, fx.GraphModule) or not _is_copied_by_its_attributes(type(module)):  # type: ignore[arg-type]  # a class is hashable
        return copy.deepcopy(module, memo)
    return _copied_attributes(module, memo)


def _copied_attributes(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    new = object.__new__(type(module))
    memo[id(module)] = new
    held = new.__dict__
    for name, value in vars(module).items():
        kind = type(value)
        if kind in _IMMUTABLE or (kind is tuple and all(type(i) in _IMMUTABLE for i in value)):
            held[name] = value
        elif kind in _REGISTRIES and not value:
            held[name] = kind()
        elif name == "_modules":
            held[name] = {
                key: child if child is None else _copied(child, memo)
                for key, child in value.items()
            }
        elif name in ("_parameters", "_buffers") and kind is dict:
            held[name] = {key: _copied_tensor(tensor, memo) for key, tensor in value.items()}
        else:
            held[name] = copy.deepcopy(value, memo)
    return new


def _copied_tensor(tensor: Tensor | None, memo: dict[int, Any]) -> Tensor | None:
    if tensor is None:
        return None
    known = memo.get(id(tensor))
    if known is not None:
        return cast(Tensor, known)
    if type(tensor) is nn.Parameter:
        return cast(Tensor, tensor.__deepcopy__(memo))
    if not _is_a_plain_buffer(tensor):
        return copy.deepcopy(tensor, memo)
    storage = tensor.untyped_storage()
    storages = memo.setdefault("torch", {})  # type: ignore[call-overload]  # torch's own, for views
    if storage._cdata in storages or storage.nbytes() != tensor.nbytes:
        return copy.deepcopy(tensor, memo)
    new = tensor.clone()
    memo[id(tensor)] = new
    storages[storage._cdata] = new.untyped_storage()
    return new


def _is_a_plain_buffer(tensor: Tensor) -> bool:
    """Whether a clone of it is all that copy.deepcopy makes."""
    return (
        type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.requires_grad or tensor.is_quantized or tensor.is_conj())
        and not tensor.__dict__
    )


@cache
def _is_copied_by_its_attributes(kind: type[nn.Module]) -> bool:
    """Whether no class of its own says how it is copied; what torch.nn says is for old files."""
    for name in ("__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__", "__setstate__"):
        base = next((base for base in kind.__mro__ if name in vars(base)), object)
        if base is not object and not base.__module__.startswith("torch.nn."):
            return False
    return not hasattr(kind, "__slots__")
