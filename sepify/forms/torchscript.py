"""A converted GraphModule as TorchScript, checked against it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, fx

from sepify.capture.exported import OPENNESS, varied
from sepify.errors import ConversionError
from sepify.forms.agreement import answers_in_eval, first_line, require_same
from sepify.passes.graph import with_dict_outputs

BATCH = OPENNESS[1]


def to_torchscript(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> tuple[torch.jit.ScriptModule, str]:
    """`graph_module` as TorchScript, in its mode, and how: "scripted" (any size that the original
    took), or, where an operator cannot be scripted, "traced, for any batch size" or "traced, for
    this size alone", as a run on one more image shows.

    Raises ConversionError if neither works, or if the result computes something else.
    """
    wanted = answers_in_eval(graph_module, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scripted = torch.jit.script(with_dict_outputs(graph_module))
            require_same("scripted", wanted, copy.deepcopy(scripted).eval(), inputs)
            return scripted, "scripted"
        except Exception:  # the compiler raises whatever it likes; tracing is the other way
            traced = _traced(graph_module, inputs)
        run = copy.deepcopy(traced).eval()
        require_same("TorchScript", wanted, run, inputs)
        return traced, f"traced, for {_sizes(graph_module, run, inputs)}"


def _traced(graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    trace: Callable[..., torch.jit.ScriptModule] = torch.jit.trace
    try:
        return trace(graph_module, inputs, check_trace=False, strict=False)
    except Exception as error:
        raise ConversionError(f"cannot be saved as TorchScript: {first_line(error)}") from error


def _sizes(
    graph_module: fx.GraphModule, traced: torch.jit.ScriptModule, inputs: tuple[Tensor, ...]
) -> str:
    """A trace may hold a size as a number, and then answers wrongly to another."""
    other = varied(inputs, BATCH)
    if other is None:
        return "this size alone"
    try:
        require_same("traced", answers_in_eval(graph_module, other), traced, other)
    except Exception:  # the graph refuses another batch, or the trace computes something else
        return "this size alone"
    return "any batch size"
