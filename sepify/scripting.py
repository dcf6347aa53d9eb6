"""A converted GraphModule as TorchScript, checked against it."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from sepify.errors import ConversionError


def to_torchscript(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> tuple[torch.jit.ScriptModule, str]:
    """`graph_module` as TorchScript, and how: "scripted" (any size that the original took), or
    "traced" on `inputs` where an operator cannot be scripted (sizes may then be fixed).

    Raises ConversionError if neither works, or if the result computes something else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scripted, how = torch.jit.script(graph_module), "scripted"
        except Exception:  # the compiler raises whatever it likes; tracing is the other way
            try:
                scripted, how = torch.jit.trace(graph_module, inputs, check_trace=False), "traced"
            except Exception as error:
                raise ConversionError(f"cannot be saved as TorchScript: {error}") from error
    _require_equal(graph_module, scripted, inputs)
    return scripted, how


@torch.no_grad()
def _require_equal(
    graph_module: fx.GraphModule, scripted: torch.jit.ScriptModule, inputs: tuple[Tensor, ...]
) -> None:
    if graph_module.training:  # dropout and BatchNorm differ from run to run in training mode
        return
    expected = pytree.tree_leaves(graph_module(*inputs))
    given = pytree.tree_leaves(scripted(*inputs))
    for old, new in zip(expected, given, strict=True):
        if not isinstance(old, Tensor):
            if old != new:
                raise ConversionError("the TorchScript form returns something else; not saved")
            continue
        scale = old.abs().max().clamp_min(1e-12)
        if not (old - new).abs().max() <= 1e-4 * scale:
            raise ConversionError("the TorchScript form computes something else; not saved")
