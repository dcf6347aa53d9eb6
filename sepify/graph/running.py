"""Running networks to look at what they answer: inputs checked, outputs finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sepify.errors import InputError, first_line

Inputs = tuple[Tensor, ...]
Network = Callable[..., Any]  # a module, or a compiled network: tensors in, tensors out

BEFORE, AFTER = "the original network", "the converted network"  # their names in messages
LARGEST_BATCH = 250
BATCH_ELEMENTS = 2**22  # input elements at a time: 27 images of 3x224x224, 250 of 1x28x28


def as_inputs(x: Tensor | Inputs) -> Inputs:
    """`x` as a tuple of tensors, batch first. Raises InputError where it is anything else."""
    inputs = (x,) if isinstance(x, Tensor) else tuple(x)
    if not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise InputError("example inputs must be one tensor or a tuple of tensors")
    if any(tensor.dim() == 0 or tensor.shape[0] == 0 for tensor in inputs):
        raise InputError("every example input needs a batch dimension with at least one image")
    return inputs


def shapes_of(inputs: Inputs) -> str:
    """The shapes for a message: "(1, 3, 224, 224)", several joined by "and"."""
    return " and ".join(str(tuple(tensor.shape)) for tensor in inputs)


def batch_size_for(image: Tensor) -> int:
    """How many images like `image` (without batch dimension) are run at a time."""
    return max(1, min(LARGEST_BATCH, BATCH_ELEMENTS // max(1, image.numel())))


def answer(network: Network, inputs: Inputs, who: str) -> tuple[Tensor, ...]:
    """The output tensors of `network` on `inputs`, without gradients; `who` names it in messages.

    Raises InputError where the network fails on the inputs, returns no tensor, or returns NaN or
    infinity.
    """
    try:
        with torch.inference_mode():
            output = network(*inputs)
    except Exception as error:  # the network is the user's: it may raise whatever it likes
        message = f"{who} does not run on inputs of shape {shapes_of(inputs)}: {first_line(error)}"
        raise InputError(message) from error
    tensors = tuple(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
    if not tensors:
        raise InputError(f"{who} returned {type(output).__name__} without a tensor in it")
    bad = sum(int((~torch.isfinite(tensor)).sum()) for tensor in tensors)
    if bad:
        count = sum(tensor.numel() for tensor in tensors)
        raise InputError(
            f"{who} returned NaN or infinity in {bad} of {count} output values "
            f"for inputs of shape {shapes_of(inputs)}"
        )
    return tensors
