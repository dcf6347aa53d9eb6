"""A converted network as a TorchScript file, checked against it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, fx

from sepify.capture.exported import OPENNESS, varied
from sepify.errors import ConversionError
from sepify.formats.agreement import answers_in_eval, first_line, require_same
from sepify.formats.input_note import METADATA_NAME, InputNote, Shape
from sepify.graph.modules import buffers_put_back
from sepify.passes.flatten_outputs import FlattenOutputs
from sepify.passes.plain_dict_outputs import PlainDictOutputs
from sepify.passes.plain_numbers import PlainNumbers
from sepify.passes.runner import run_passes
from sepify.process.lock import one_at_a_time
from sepify.storage.writing import torch_file

BATCH = OPENNESS[1]


def write_model(
    graph_module: fx.GraphModule, path: Path, inputs: tuple[Tensor, ...], note: InputNote
) -> str:
    """Save it with `note` inside; "TorchScript, " and how, as `to_torchscript` says. Raises
    ConversionError, FileError."""
    scripted, how = to_torchscript(graph_module, inputs)
    save_torchscript(scripted, path, note.shapes, note.dtypes)
    return f"TorchScript, {how}"


def to_torchscript(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> tuple[torch.jit.ScriptModule, str]:
    """`graph_module` as TorchScript, in its mode, and how: "scripted" (any size that the original
    took), or, where an operator cannot be scripted, "traced, for any batch size" or "traced, for
    this size alone", as a run on one more image shows. A trace knows few containers: outputs in
    others come in one tuple, and how says so.

    Raises ConversionError if neither works, or if the result computes something else.
    """
    wanted = answers_in_eval(graph_module, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = run_passes(graph_module, (PlainNumbers(),)).graph_module
        try:
            if plain.graph.find_nodes(op="call_method", target="__setitem__"):
                raise ConversionError("torch.jit.script would drop an assignment")
            scripted = torch.jit.script(run_passes(plain, (PlainDictOutputs(),)).graph_module)
            require_same("scripted", wanted, copy.deepcopy(scripted).eval(), inputs)
            return scripted, "scripted"
        except Exception:  # the compiler raises whatever it likes; tracing is the other way
            traced, outputs = _traced(plain, inputs)
        require_same("TorchScript", wanted, copy.deepcopy(traced).eval(), inputs)
        run = copy.deepcopy(traced).eval()  # another: a run may leave its traces
        return traced, f"traced, for {_sizes(graph_module, run, inputs)}{outputs}"


def _traced(
    graph_module: fx.GraphModule, inputs: tuple[Tensor, ...]
) -> tuple[torch.jit.ScriptModule, str]:
    """A trace, and what to say of its outputs: one returns tensors, or one container of nothing
    else; of anything more nested it returns the tensors one after another."""
    trace: Callable[..., torch.jit.ScriptModule] = torch.jit.trace
    given = copy.deepcopy(inputs)
    try:
        with buffers_put_back(graph_module):
            return trace(graph_module, given, check_trace=False, strict=False), ""
    except Exception:  # of any kind, for the outputs or for what is traced: the next try tells
        # what is left is what `leaves` has of an answer
        flat = run_passes(graph_module, (PlainDictOutputs(), FlattenOutputs())).graph_module
    try:
        with buffers_put_back(flat):
            return trace(flat, given, check_trace=False, strict=False), "; its outputs in one tuple"
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


@one_at_a_time()
def save_torchscript(
    module: torch.jit.ScriptModule,
    path: Path | str,
    input_shapes: Sequence[Shape] | None = None,
    input_dtypes: Sequence[str] | None = None,
) -> None:
    """Save a TorchScript file with what its inputs are noted inside (TorchScript itself does not
    say): shapes, and types by name, float32 where none are given."""
    extra: dict[str, str] = {}
    if input_shapes is not None:
        dtypes = tuple(input_dtypes or ["float32"] * len(input_shapes))
        note = InputNote(tuple(tuple(shape) for shape in input_shapes), dtypes)
        extra[METADATA_NAME] = note.to_json()
    with torch_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(module, file, _extra_files=extra)
