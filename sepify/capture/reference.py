"""The model as it was given, run on the example: what every capture is compared with."""

from __future__ import annotations

import inspect
import operator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sepify.capture.copying import copy_module
from sepify.capture.inputs import (
    Inputs,
    describe,
    forward_arguments,
    restored_buffers,
    run,
    run_in_place,
)
from sepify.capture.plain import is_training
from sepify.errors import CaptureError, InputError


@dataclass(frozen=True)
class Reference:
    """What the model answers to the example, and a copy of it that has just given this answer."""

    model: nn.Module
    inputs: Inputs
    training: bool  # whether any layer is in training mode
    expected: Any
    remembers: bool  # whether a run changes anything in the model but the values of its tensors

    def answer(self, inputs: Inputs) -> Any:
        """What the model answers to other inputs; None where it refuses them."""
        try:
            return run(self.model, inputs)
        except Exception:  # a model may refuse with any exception
            return None


def reference_run(model: nn.Module, inputs: Inputs) -> Reference:
    """Run a copy of the model on the example inputs; the model itself is not changed.

    Raises InputError, with what was given and, where known, what was expected, if it refuses them,
    and CaptureError if it runs on a GPU alone and there is none.
    """
    _require_arity(model, inputs)
    copied = copy_module(model)
    attributes = _Attributes(copied)
    training = any(map(is_training, copied.modules()))
    try:
        with restored_buffers(copied) if training else nullcontext():  # statistics move
            expected = run_in_place(copied, inputs)
    except Exception as error:  # a model is free to refuse its input with any exception
        if _lacks_cuda(error):
            raise CaptureError(
                f"the model needs CUDA, which torch {torch.__version__} does not find on this "
                "machine; take .cuda() and device='cuda' out of its code"
            ) from error
        raise InputError(
            f"the model does not accept the example input {describe(inputs)}"
            f"{_expectation(model, inputs)}; it says: {_last_line(error)}"
        ) from error
    return Reference(copied, inputs, training, expected, attributes.changed())


class _Attributes:
    """What the modules of a model hold, to see whether a run changes it: other objects than before
    under some name, or containers with more or less in them."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
        self.held = self._held()
        self.containers = [v for v in self.held if type(v) in (dict, list, set)]
        self.sizes = list(map(len, self.containers))

    def _held(self) -> list[Any]:
        held: list[Any] = []
        for module in self.modules:
            held += vars(module).values()
            held += module._buffers.values()
        return held

    def changed(self) -> bool:
        """Whether anything is otherwise than when this object was made."""
        now = self._held()
        return (
            len(now) != len(self.held)
            or not all(map(operator.is_, now, self.held))
            or self.sizes != list(map(len, self.containers))
        )


def _lacks_cuda(error: Exception) -> bool:
    return not torch.cuda.is_available() and any(
        word in str(error) for word in ("CUDA enabled", "NVIDIA driver", "'CUDA' backend")
    )


def _require_arity(model: nn.Module, inputs: Inputs) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        arguments = forward_arguments(model)
        required = sum(not argument.has_default_value() for argument in arguments)
        fits = required <= len(inputs) <= len(arguments)
        names = [argument.name for argument in arguments]
    else:
        signature = inspect.signature(model.forward)
        names = list(signature.parameters)
        try:
            signature.bind(*inputs)
            fits = True
        except TypeError:
            fits = False
    if not fits:
        given = f"{len(inputs)} example input{'s were' if len(inputs) > 1 else ' was'} given"
        raise InputError(f"{given} but the model takes ({', '.join(names)})")


def _expectation(model: nn.Module, inputs: Inputs) -> str:
    """What the first convolution reads, if the (only) input does not offer it."""
    first = next(((n, m) for n, m in model.named_modules() if _is_conv(m)), None)
    if first is None or len(inputs) != 1:
        return ""
    name, conv = first
    weight = conv.weight
    groups = getattr(conv, "groups", None)
    if groups is None:  # a traced module does not keep it; depthwise is the usual other value
        groups = 1 if weight.shape[1] > 1 else None
    (given,) = inputs
    if groups is not None and (given.dim() < 3 or given.shape[-3] != weight.shape[1] * groups):
        channels = f"{weight.shape[1] * groups} channels: (batch, channels, height, width)"
        return f": its first convolution, '{name}', reads {channels}"
    if given.dtype != weight.dtype:
        dtype = str(weight.dtype).removeprefix("torch.")
        return f": its first convolution, '{name}', holds {dtype} weights"
    return ""


def _is_conv(module: nn.Module) -> bool:
    scripted = isinstance(module, torch.jit.ScriptModule) and module.original_name == "Conv2d"
    return (scripted or isinstance(module, nn.Conv2d)) and isinstance(
        getattr(module, "weight", None), Tensor
    )


def _last_line(error: Exception) -> str:
    """The message of an eager error is its first line; TorchScript puts a traceback before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "TorchScript interpreter" in lines[0]:
        told = next((line for line in reversed(lines) if "Error: " in line), lines[-1])
        return told.partition("Error: ")[2] or told
    return lines[0]
