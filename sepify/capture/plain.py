"""A private copy of a model, made plain: computed weights folded, hooks taken off, both said."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from sepify.graph.copying import copy_module
from sepify.graph.modes import is_training

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
    """A copy of a model, and one sentence for each thing that was taken off it."""

    module: nn.Module
    notes: tuple[str, ...]


def plain_copy(model: nn.Module, hooks_too: bool = False) -> PlainCopy:
    """A deep copy, made plain."""
    return made_plain(copy_module(model), hooks_too)


def is_plain(model: nn.Module) -> bool:
    """Whether there is nothing on it that `made_plain` takes off."""
    return not any(_is_parametrized(m) or has_hooks(m) for m in model.modules())


def made_plain(copied: nn.Module, hooks_too: bool = False) -> PlainCopy:
    """A copy of a model, changed in place: parametrisations are folded into stored weights, and its
    hooks removed, or (for a front end that runs them while it traces) those of convolutions and
    torch's own layers."""
    modules = list(copied.named_modules())
    folded = [name for name, module in modules if _fold_weights(module)]
    modules = list(copied.named_modules()) if folded else modules
    hooks = [(name, module) for name, module in modules if has_hooks(module)]
    kept = [name for name, module in hooks if hooks_too and not _is_torchs(module)]
    for name, module in hooks:
        if name not in kept:
            _remove_hooks(module)
    hooked = [name for name, _ in hooks if name not in kept]
    notes = []
    if folded:
        notes.append(f"computed weights (weight or spectral norm) were folded: {_list(folded)}")
    if hooked:
        notes.append(f"hooks are not part of the captured graph; dropped from {_list(hooked)}")
    if kept:
        notes.append(f"hooks are part of the captured graph, which does as they do: {_list(kept)}")
    return PlainCopy(copied, tuple(notes))


def training_note(model: nn.Module) -> tuple[str, ...]:
    """A sentence if any layer is in training mode; nothing otherwise."""
    training = [name for name, module in model.named_modules() if is_training(module)]
    if not training:
        return ()
    where = "the model is" if "" in training else f"{_list(training)} {_is_are(training)}"
    return (f"{where} in training mode and was captured so; call model.eval() first for inference",)


def _fold_weights(module: nn.Module) -> bool:
    folded = False
    if _is_parametrized(module):
        _fold_parametrizations(module)
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


def _is_parametrized(module: nn.Module) -> bool:
    return "parametrizations" in module._modules and parametrize.is_parametrized(module)


def _fold_parametrizations(module: nn.Module) -> None:
    """Store the tensors that are computed, and make the module one of its class before.

    torch's own way takes the property off the class, which is shared with the original and every
    other copy, and writes into the tensor below, which other layers may use as it is.
    """
    parametrizations = module.parametrizations
    assert isinstance(parametrizations, nn.ModuleDict)
    with torch.no_grad():
        computed = {name: getattr(module, name).detach().clone() for name in parametrizations}
    below = {name: list(held._parameters.values()) for name, held in parametrizations.items()}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, tensor in computed.items():
        if below[name] and tensor.is_floating_point():
            learns = any(given is not None and given.requires_grad for given in below[name])
            module.register_parameter(name, nn.Parameter(tensor, requires_grad=learns))
        else:
            module.register_buffer(name, tensor)


def has_hooks(module: nn.Module) -> bool:
    """Whether anything runs before or after the module's own forward or backward."""
    if isinstance(module, torch.jit.ScriptModule):
        return False  # its hooks are compiled into it
    held = vars(module)
    return any(held.get(name) for name in HOOKS)


def _remove_hooks(module: nn.Module) -> None:
    for name in HOOKS:
        getattr(module, name, {}).clear()


def _is_torchs(module: nn.Module) -> bool:
    """Whether tracing calls the module as a whole, without running its hooks."""
    return isinstance(module, nn.Conv2d) or type(module).__module__.startswith("torch.nn.")


def _list(names: list[str], most: int = 4) -> str:
    shown = ", ".join(f"'{name}'" if name else "the model itself" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _is_are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
