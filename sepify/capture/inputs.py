"""Example inputs: what is accepted, how they are named in messages, and the run that tries them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.capture.copying import copy_module, copy_to_run
from sepify.errors import CaptureError, InputError

Inputs = tuple[Tensor, ...]

SEED = 0  # of both runs that are compared, so that dropout and noise agree


def require_tensors(example_inputs: object) -> Inputs:
    """The example inputs as a tuple; a single tensor and a list are accepted.

    Raises InputError if anything in them is not a tensor, or there is nothing in them.
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    if not isinstance(example_inputs, (tuple, list)) or not example_inputs:
        kind = type(example_inputs).__name__
        raise InputError(
            f"example_inputs must be a tuple of tensors such as (torch.rand(1, 3, 224, 224),), "
            f"not {'an empty ' if isinstance(example_inputs, (tuple, list)) else 'a '}{kind}"
        )
    for index, value in enumerate(example_inputs):
        if not isinstance(value, Tensor):
            optional = "; leave optional arguments out" if value is None else ""
            raise InputError(
                f"example input {index} must be a tensor, not a {type(value).__name__}{optional}"
            )
    return tuple(example_inputs)


def describe(inputs: Sequence[Tensor]) -> str:
    """Dtype and shape of each input, in words: `float32 (1, 3, 224, 224)`."""
    return ", ".join(f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}" for x in inputs)


def run(model: nn.Module, inputs: Inputs) -> Any:
    """The output of a *copy* of `model` on copies of the inputs, without gradients, with a fixed
    random seed and the caller's random state left alone."""
    return run_in_place(copy_to_run(model), inputs)


def run_in_place(model: nn.Module, inputs: Inputs) -> Any:
    """As `run`, on `model` itself, whose buffers may change."""
    devices = sorted({x.device.index or 0 for x in inputs if x.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(SEED)
        return model(*copy.deepcopy(inputs))


def run_restored(model: nn.Module, inputs: Inputs) -> Any:
    """As `run`, without the copy where buffers are all that a run can change."""
    called = [m for m in model.modules() if not isinstance(m, fx.GraphModule) and m is not model]
    if not all(type(module).__module__.startswith("torch.nn.") for module in called):
        return run(model, inputs)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        return run_in_place(model, inputs)
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def enlarged(inputs: Inputs, images_too: bool) -> Inputs:
    """`inputs` with one more in the batch and, if asked, with images of 32 more pixels at most to
    each side, all of them repeated from what is there."""
    return tuple(_grown(x, images_too) for x in inputs)


def _grown(tensor: Tensor, images_too: bool) -> Tensor:
    if tensor.dim() == 0:
        return tensor
    grown = torch.cat([tensor, tensor[:1]])
    for dim in range(2, tensor.dim()) if images_too and tensor.dim() > 3 else ():
        grown = torch.cat([grown, grown.narrow(dim, 0, min(32, grown.shape[dim]))], dim)
    return grown


def reference_output(model: nn.Module, inputs: Inputs) -> Any:
    """What the given model answers to the example inputs; it is not changed.

    Raises InputError, with what was given and, where known, what was expected, if it refuses them,
    and CaptureError if it runs on a GPU alone and there is none.
    """
    _require_arity(model, inputs)
    copied = copy_module(model)
    try:
        return run_in_place(copied, inputs)
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


def _lacks_cuda(error: Exception) -> bool:
    return not torch.cuda.is_available() and any(
        word in str(error) for word in ("CUDA enabled", "NVIDIA driver", "'CUDA' backend")
    )


def forward_arguments(model: torch.jit.ScriptModule) -> list[Any]:
    """The arguments of a script's forward (name, default_value, has_default_value()), less self."""
    return list(model._c._get_method("forward").schema.arguments[1:])


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
