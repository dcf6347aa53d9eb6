"""The model as it was given, run on the example: what every capture is compared with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sepify.capture.own_state import OwnState, own_state
from sepify.capture.plain import is_plain
from sepify.errors import CaptureError, InputError
from sepify.graph.copying import copy_module
from sepify.graph.inputs import Inputs, describe, forward_arguments, restored_buffers, run_in_place
from sepify.graph.modes import is_training
from sepify.graph.own_memory import Memory


@dataclass
class Reference:
    """What the model answers to the example, and the copy of it that has given this answer.

    The same copy is lent to be traced and to be run on other sizes, where all that this changes in
    it can be undone; where not, everyone gets a copy of its own.
    """

    given: nn.Module
    inputs: Inputs
    training: bool  # whether any layer is in training mode
    expected: Any
    _copy: nn.Module  # as it was given while that can be undone, otherwise as the run has left it
    _before: Memory | None  # None where it cannot be undone
    _after: Memory | None  # None where the run changes nothing
    own_state: OwnState | None = None  # what it keeps from call to call, if that matters

    @property
    def is_undoable(self) -> bool:
        """Whether everyone is lent the same copy."""
        return self._before is not None

    @contextmanager
    def lent(self, warm: bool = False) -> Iterator[nn.Module]:
        """The model as it was given or, if `warm`, as it is after a run on the example, to be run
        or traced. A graph of it may keep its layers."""
        if self._before is None:
            yield copy_module(self._copy if warm else self.given)
            return
        if warm and self._after is not None:
            self._after.restore()
        try:
            yield self._copy
        finally:  # a loan inside another may have given up
            if self._before is not None and not self._before.restore():
                self._before = None
                self._copy = copy_module(self.given)
                run_in_place(self._copy, self.inputs)

    def answer(self, inputs: Inputs) -> Any:
        """What the model answers to other inputs; None where it refuses them."""
        with self.lent(warm=True) as model:
            try:
                return run_in_place(model, inputs)
            except Exception:  # a model may refuse with any exception
                return None


def reference_run(model: nn.Module, inputs: Inputs) -> Reference:
    """Run a copy of the model on the example inputs; the model itself is not changed.

    Raises InputError, with what was given and, where known, what was expected, if it refuses them,
    and CaptureError if it runs on a GPU alone and there is none.
    """
    _require_arity(model, inputs)
    copied = copy_module(model)
    before = Memory(copied)
    training = any(map(is_training, copied.modules()))
    written: tuple[str, ...] = ()
    try:
        with restored_buffers(copied) if training else nullcontext():  # statistics move
            expected = run_in_place(copied, inputs)
            if before.may_be_written():
                written = before.written(copied)
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
    after = Memory(copied) if before.changed() else None
    undoable = is_plain(copied) and (after is None or after.whole) and before.restore()
    reference = Reference(
        *(model, inputs, training, expected, copied),
        *((before, after) if undoable else (None, None)),
    )
    reference.own_state = own_state(reference, written)
    return reference


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
        last = given.dim() == 4 and given.shape[3] == weight.shape[1] * groups
        hint = "; yours come last: images.permute(0, 3, 1, 2)" if last else ""
        return f": its first convolution, '{name}', reads {channels}{hint}"
    if given.dtype != weight.dtype:
        dtype = str(weight.dtype).removeprefix("torch.")
        whole = weight.is_floating_point() and not given.is_floating_point()
        hint = "; as a rule, images become (images.float() / 255 - mean) / std" if whole else ""
        return f": its first convolution, '{name}', holds {dtype} weights{hint}"
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
