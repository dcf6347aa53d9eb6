"""Whether a form answers as the graph module that it was made from, on inputs of several sizes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from sepify.errors import ConversionError

Inputs = tuple[Tensor, ...]
Run = Callable[..., Any]

# largest difference allowed, over the largest value: operators are fused, sums reordered
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
COARSE = 2e-2  # half precision


def answers_in_eval(graph_module: fx.GraphModule, inputs: Inputs) -> list[Any]:
    """The leaves of what a copy of `graph_module` answers in inference mode; it is not changed."""
    copied = copy.deepcopy(graph_module).eval()
    with torch.no_grad():
        return leaves(copied(*copy.deepcopy(inputs)))


def require_same(form: str, wanted: list[Any], run: Run, inputs: Inputs) -> None:
    """Raise ConversionError, naming the form, unless `run(*inputs)` gives the leaves `wanted`."""
    try:
        with torch.no_grad():
            given = leaves(run(*copy.deepcopy(inputs)))
    except Exception as error:  # of the runtime, of any kind
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise ConversionError(
            f"the {form} form does not run on inputs of {shapes}, so it is not saved: "
            f"{first_line(error)}"
        ) from error
    if len(given) != len(wanted):
        raise ConversionError(
            f"the {form} form returns {len(given)} values instead of {len(wanted)}; not saved"
        )
    for index, (old, new) in enumerate(zip(wanted, given, strict=True)):
        told = _difference(old, new)
        if told is not None:
            raise ConversionError(f"the {form} form's output {index} {told}; not saved")


def leaves(answer: Any) -> list[Any]:
    """Tensors and numbers in order; nothing where there is none."""
    return [leaf for leaf in pytree.tree_leaves(answer) if leaf is not None]


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__


def _difference(wanted: Any, given: Any) -> str | None:
    if not isinstance(wanted, Tensor):
        same = bool(given == wanted)  # a runtime may give a number as a tensor
        return None if same else f"is {given!r} instead of {wanted!r}"
    if wanted.shape != given.shape:
        return f"has shape {tuple(given.shape)} instead of {tuple(wanted.shape)}"
    if wanted.dtype != given.dtype:
        return f"is {given.dtype} instead of {wanted.dtype}"
    tolerance = TOLERANCE.get(wanted.dtype, COARSE) if wanted.is_floating_point() else 0.0
    wanted, given = wanted.detach().double(), given.detach().double()
    finite = wanted.isfinite()
    if not torch.equal(finite, given.isfinite()):
        return "has NaN or infinity in other places"
    if not bool(finite.any()):
        return None
    error = float((wanted - given)[finite].abs().max())
    scale = float(wanted[finite].abs().max())
    if error <= tolerance * scale:
        return None
    return f"differs by up to {error:.3g} where the largest value is {scale:.3g}"
