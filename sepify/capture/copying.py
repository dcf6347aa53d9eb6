"""A private copy of a model, made plain: computed weights folded, hooks taken off, both said."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from sepify.errors import CaptureError

M = TypeVar("M", bound=nn.Module)

_IMMUTABLE = (bool, int, float, str, type(None), torch.dtype, torch.device)

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_pre_hooks",
    "_backward_hooks",
)


@dataclass(frozen=True)
class PlainCopy:
    """The copy, and one sentence for each thing that was taken off it."""

    module: nn.Module
    notes: tuple[str, ...]


def require_supported(model: nn.Module) -> None:
    """Raise CaptureError, naming the parameter or layer, for a model without usable weights, or
    one that contains itself."""
    _require_tree(model, "", [])
    for name, module in model.named_modules():
        if any(map(is_lazy, module.parameters(recurse=False))):
            raise CaptureError(
                f"layer '{name}' is lazy and has no weights yet; "
                "run the model once on an example input, then capture it"
            )
        if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            raise CaptureError(
                f"layer '{name}' is quantised ({type(module).__name__}); "
                "give the floating-point model and quantise the converted one"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            continue  # of a lazy layer, reported above
        if tensor.is_meta:
            raise CaptureError(f"'{name}' is on the meta device and holds no values; load weights")
        if tensor.is_complex():
            raise CaptureError(f"'{name}' is complex; sepify converts real networks only")
        if tensor.is_quantized:
            raise CaptureError(f"'{name}' is quantised; give the floating-point model")


def _require_tree(module: nn.Module, path: str, above: list[nn.Module]) -> None:
    """A module inside itself has no end of names; several places for one module are fine."""
    if isinstance(module, torch.jit.ScriptModule):
        return
    if any(module is other for other in above):
        raise CaptureError(
            f"'{path}' is a module that contains it (a {type(module).__name__}), so that the model "
            "has no end; hold it in a list or tuple instead, or as a function's argument"
        )
    for name, child in module.named_children():
        _require_tree(child, f"{path}.{name}" if path else name, [*above, module])


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
    # refuses: hand it the copy of that tensor beforehand.
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copied(model, memo)
    except Exception as error:  # deepcopy runs whatever __deepcopy__ or __reduce__ a model has
        raise CaptureError(
            f"the model ({type(model).__name__}) cannot be deep-copied, and sepify never works on "
            f"the one it was given: {str(error).splitlines()[0]}"
        ) from error


def _copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """copy.deepcopy, which spends most of its time on the empty registries of a module, with those
    and the dicts of parameters and submodules copied by hand."""
    known = memo.get(id(module))
    if known is not None:
        return cast(nn.Module, known)
    if isinstance(module, fx.GraphModule) or not _is_copied_by_its_attributes(type(module)):
        return copy.deepcopy(module, memo)
    return _copied_attributes(module, memo)


def _copied_attributes(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    new = object.__new__(type(module))
    memo[id(module)] = new
    for name, value in vars(module).items():
        if name == "_modules":
            value = {
                key: child if child is None else _copied(child, memo)
                for key, child in value.items()
            }
        elif name in ("_parameters", "_buffers") and type(value) is dict:
            value = {key: _copied_tensor(tensor, memo) for key, tensor in value.items()}
        elif isinstance(value, dict) and not value:
            value = type(value)()
        elif not isinstance(value, _IMMUTABLE):
            value = copy.deepcopy(value, memo)
        new.__dict__[name] = value
    return new


def _copied_tensor(tensor: Tensor | None, memo: dict[int, Any]) -> Tensor | None:
    if tensor is None:
        return None
    known = memo.get(id(tensor))
    return cast(Tensor, copy.deepcopy(tensor, memo) if known is None else known)


def _is_copied_by_its_attributes(kind: type[nn.Module]) -> bool:
    """Whether no class of its own says how it is copied; what torch.nn says is for old files."""
    for name in ("__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__", "__setstate__"):
        base = next((base for base in kind.__mro__ if name in vars(base)), object)
        if base is not object and not base.__module__.startswith("torch.nn."):
            return False
    return not hasattr(kind, "__slots__")


def plain_copy(model: nn.Module, hooks_too: bool = False) -> PlainCopy:
    """A deep copy with parametrisations folded into stored weights, and its hooks removed, or (for
    a front end that runs them while it traces) those of convolutions and torch's own layers."""
    copied = copy_module(model)
    folded = [name for name, module in copied.named_modules() if _fold_weights(module)]
    kept = {name: m for name, m in copied.named_modules() if hooks_too and not _is_torchs(m)}
    hooked = [n for n, m in copied.named_modules() if n not in kept and _remove_hooks(m)]
    run = [name for name, module in kept.items() if has_hooks(module)]
    notes = []
    if folded:
        notes.append(f"computed weights (weight or spectral norm) were folded: {_list(folded)}")
    if hooked:
        notes.append(f"hooks are not part of the captured graph; dropped from {_list(hooked)}")
    if run:
        notes.append(f"hooks are part of the captured graph, which does what they do: {_list(run)}")
    return PlainCopy(copied, tuple(notes))


def is_training(module: nn.Module) -> bool:
    """Whether `module` is in training mode; a frozen script, which has no mode left, is not."""
    return bool(getattr(module, "training", False))


def training_note(model: nn.Module) -> tuple[str, ...]:
    """A sentence if any layer is in training mode; nothing otherwise."""
    training = [name for name, module in model.named_modules() if is_training(module)]
    if not training:
        return ()
    where = "the model is" if "" in training else f"{_list(training)} {_is_are(training)}"
    return (f"{where} in training mode and was captured so; call model.eval() first for inference",)


def _fold_weights(module: nn.Module) -> bool:
    folded = False
    if parametrize.is_parametrized(module):
        parametrizations = module.parametrizations
        assert isinstance(parametrizations, nn.ModuleDict)
        for name in list(parametrizations):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            folded = True
    for hook in list(module._forward_pre_hooks.values()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the old API, and files still use it
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
                folded = True
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
                folded = True
    return folded


def has_hooks(module: nn.Module) -> bool:
    """Whether anything runs before or after the module's own forward or backward."""
    if isinstance(module, torch.jit.ScriptModule):
        return False  # its hooks are compiled into it
    return any(getattr(module, name, None) for name in HOOKS)


def _remove_hooks(module: nn.Module) -> bool:
    found = has_hooks(module)
    for name in HOOKS if found else ():
        getattr(module, name, {}).clear()
    return found


def _is_torchs(module: nn.Module) -> bool:
    """Whether tracing calls the module as a whole, without running its hooks."""
    return isinstance(module, nn.Conv2d) or type(module).__module__.startswith("torch.nn.")


def _list(names: list[str], most: int = 4) -> str:
    shown = ", ".join(f"'{name}'" if name else "the model itself" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _is_are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def drop_unresolved_annotations(graph: fx.Graph) -> None:
    """Under `from __future__ import annotations` a type is a string, which torch.fx writes into
    the graph's code as a name that exists nowhere: it could be neither pickled nor scripted."""
    for node in graph.nodes:
        if isinstance(node.type, str):
            node.type = None
