"""Example inputs: what is accepted, how they are named in messages, and the run that tries them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.errors import InputError
from sepify.graph.copying import copy_to_run
from sepify.graph.modes import evaluating
from sepify.graph.own_memory import same_values

Inputs = tuple[Tensor, ...]

SEED = 0  # of both runs that are compared, so that dropout and noise agree


def require_tensors(example_inputs: object) -> Inputs:
    """The example inputs as a tuple; a single tensor and a list are accepted.

    Raises InputError if anything in them is not a tensor, or there is nothing in them, or a batch
    in them is empty.
    """
    if isinstance(example_inputs, Tensor):
        return (_plain(example_inputs, 0),)
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
    return tuple(_plain(value, index) for index, value in enumerate(example_inputs))


def _plain(tensor: Tensor, index: int) -> Tensor:
    """The tensor by itself, without what computed it. Raises InputError for an empty batch."""
    if tensor.dim() and len(tensor) == 0:
        raise InputError(f"example input {index} is {tuple(tensor.shape)}, without a single image")
    tensor = tensor.detach()
    return tensor.clone() if tensor.is_inference() else tensor


def describe(inputs: Sequence[Tensor]) -> str:
    """Dtype and shape of each input, in words: `float32 (1, 3, 224, 224)`."""
    return ", ".join(f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}" for x in inputs)


def run(model: nn.Module, inputs: Inputs) -> Any:
    """The output of a *copy* of `model` on copies of the inputs, without gradients, with a fixed
    random seed and the caller's random state left alone."""
    return run_in_place(copy_to_run(model), inputs)


def run_in_place(model: Callable[..., Any], inputs: Inputs) -> Any:
    """As `run`, on `model` itself, whose buffers may change."""
    devices = sorted({x.device.index or 0 for x in inputs if x.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(SEED)
        return model(*copy.deepcopy(inputs))


def run_restored(graph_module: fx.GraphModule, inputs: Inputs) -> Any:
    """As `run`, without the copy where buffers are all that a run can change."""
    with for_a_run(graph_module) as model:
        return run_in_place(model, inputs)


@contextmanager
def for_a_run(graph_module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """The graph module itself, whose buffers are given back their values, where buffers are all
    that a run can change; otherwise a copy."""
    called = (m for m in graph_module.modules() if not isinstance(m, fx.GraphModule))
    if not all(type(module).__module__.startswith("torch.nn.") for module in called):
        yield copy_to_run(graph_module)
        return
    with restored_buffers(graph_module):
        yield graph_module


@contextmanager
def in_evaluation(graph_module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """As `for_a_run`, in inference mode; every module's own mode is restored after."""
    with for_a_run(graph_module) as model, evaluating(model):
        yield model


@contextmanager
def restored_buffers(model: nn.Module) -> Iterator[None]:
    """Give the buffers back the values that they had before."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                if not same_values(buffer, before):  # what was not written to is not written to
                    buffer.copy_(before)


PIXELS = 32  # that images grow by, to each side at most


def other_sizes(inputs: Inputs, pixels: int, alone: bool) -> tuple[Inputs, Inputs]:
    """Inputs of other batch sizes, the first of one image if the example has more and `alone`; and
    of images larger by `pixels`, at most by what they have, still larger in the second."""
    larger = tuple(_grown(x, x, pixels) for x in inputs)
    largest = tuple(_grown(x, of, pixels) for x, of in zip(larger, inputs, strict=True))
    if not alone or any(x.dim() == 0 or len(x) == 1 for x in inputs):
        return larger, largest
    return tuple(x[:1] for x in larger), tuple(x[:1] for x in largest) if pixels else larger


def enlarged(inputs: Inputs, images_too: bool) -> Inputs:
    """`inputs` with one more in the batch and, if asked, with images of 32 more pixels at most to
    each side, all of them repeated from what is there."""
    return tuple(_grown(x, x, PIXELS if images_too else 0) for x in inputs)


def _grown(tensor: Tensor, of: Tensor, pixels: int) -> Tensor:
    if tensor.dim() == 0:
        return tensor
    grown = torch.cat([tensor, tensor[:1]])
    for dim in range(2, tensor.dim()) if pixels and tensor.dim() > 3 else ():
        grown = torch.cat([grown, grown.narrow(dim, 0, min(pixels, of.shape[dim]))], dim)
    return grown


def forward_arguments(model: torch.jit.ScriptModule) -> list[Any]:
    """The arguments of a script's forward (name, default_value, has_default_value()), less self."""
    return list(model._c._get_method("forward").schema.arguments[1:])
