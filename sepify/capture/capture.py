"""Any model -> a graph module whose convolutions are nn.Conv2d modules under their own names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from sepify.capture.comparing import difference
from sepify.capture.copying import (
    drop_unresolved_annotations,
    plain_copy,
    require_supported,
    training_note,
)
from sepify.capture.functional import CONSTANT_PREFIX
from sepify.capture.inputs import Inputs, describe, reference_output, require_tensors, run
from sepify.capture.raising import Raised, raise_modules
from sepify.capture.symbolic import Traced, symbolic_trace
from sepify.capture.torchscript import import_torchscript
from sepify.capture.tracer import value_trace
from sepify.errors import CaptureError, InputError

ALL_KINDS = ("conv", "bn", "linear", "dropout")


@dataclass(frozen=True)
class Captured:
    """A model as a graph, and how it became one.

    The graph module is a fresh copy that shares nothing with the model it came from. Its
    convolutions are nn.Conv2d call_module nodes under their original names, except those whose
    weight is computed or shared with something else.
    """

    graph_module: fx.GraphModule
    front_end: str  # "graph-module", "symbolic-trace", "value-tracer" or "torchscript"
    reason: str  # one sentence: why this front end
    notes: tuple[str, ...]  # what was assumed, dropped, folded or renamed, a sentence each


def capture(
    model: nn.Module | fx.GraphModule | torch.jit.ScriptModule,
    example_inputs: tuple[Tensor, ...] | None = None,
) -> Captured:
    """Capture `model`, which is not changed, in the mode (training or evaluation) it is in.

    Args:
        model: an nn.Module, a GraphModule, or a (loaded) ScriptModule.
        example_inputs: the model's inputs, batch first, of any batch size: `(B, C, H, W)` for an
            image network. TorchScript needs them, and modules that torch.fx alone cannot trace.
            Where given, the result is run on them beside the model and must answer the same.

    Raises:
        CaptureError: the model cannot be captured, or the captured one answers otherwise.
        InputError: example inputs are needed, or the model does not accept those given.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"cannot capture a {type(model).__name__}: give an nn.Module, a torch.fx.GraphModule "
            "or a module from torch.jit.load"
        )
    require_supported(model)
    inputs = None if example_inputs is None else require_tensors(example_inputs)
    expected = None if inputs is None else reference_output(model, inputs)
    if isinstance(model, torch.jit.ScriptModule):
        return _checked(_from_torchscript(model, inputs), expected, inputs)
    if isinstance(model, fx.GraphModule):
        return _checked(_from_graph_module(model), expected, inputs)
    try:
        return _checked(_from_symbolic_trace(model, inputs), expected, inputs)
    except CaptureError as error:
        if inputs is None:
            raise
        return _checked(_from_value_tracer(model, inputs, str(error)), expected, inputs)


def _from_graph_module(model: fx.GraphModule) -> Captured:
    plain = plain_copy(model)
    assert isinstance(plain.module, fx.GraphModule)
    drop_unresolved_annotations(plain.module.graph)
    plain.module.recompile()
    raised = raise_modules(plain.module)
    notes = (*plain.notes, *_renamed(raised), *training_note(model))
    return Captured(plain.module, "graph-module", "it was given as a graph already", notes)


def _from_symbolic_trace(model: nn.Module, inputs: Inputs | None) -> Captured:
    plain = plain_copy(model)
    traced = symbolic_trace(plain.module, None if inputs is None else len(inputs))
    notes = (*plain.notes, *_finish(traced, plain.module), *training_note(model))
    return Captured(traced.graph_module, "symbolic-trace", "torch.fx traces it as it is", notes)


def _from_value_tracer(model: nn.Module, inputs: Inputs, why: str) -> Captured:
    plain = plain_copy(model)
    traced = value_trace(plain.module, inputs)
    notes = (*plain.notes, *_finish(traced, plain.module), *training_note(model))
    return Captured(traced.graph_module, "value-tracer", f"torch.fx alone does not: {why}", notes)


def _finish(traced: Traced, model: nn.Module) -> tuple[str, ...]:
    state = dict(model.named_buffers())
    raised = raise_modules(traced.graph_module, ("conv", "bn"), traced.ranks, state)
    return (*traced.notes, *_renamed(raised))


def _from_torchscript(model: torch.jit.ScriptModule, inputs: Inputs | None) -> Captured:
    if inputs is None:
        raise InputError(
            "a TorchScript file does not hold the shape of its input: give example_inputs, such as "
            "(torch.rand(1, 3, 224, 224),) (at the shell: --input-shape 1,3,224,224)"
        )
    imported = import_torchscript(model, inputs)
    raised = raise_modules(imported.graph_module, ALL_KINDS, imported.ranks, imported.state)
    notes = (*imported.notes, *_renamed(raised), *training_note(model))
    reason = "it is TorchScript, which torch.fx cannot trace"
    return Captured(imported.graph_module, "torchscript", reason, notes)


def _checked(captured: Captured, expected: object, inputs: Inputs | None) -> Captured:
    """The same operators give the same bits; TorchScript may fuse them, and GPUs may reorder."""
    if inputs is None:
        return captured
    exact = captured.front_end != "torchscript" and all(x.device.type == "cpu" for x in inputs)
    try:
        actual = run(captured.graph_module, inputs)
    except Exception as error:  # a graph of the wrong branch can fail in any way
        told = f"it fails with: {str(error).strip().splitlines()[0]}"
        raise CaptureError(_not_the_same(captured, inputs, told)) from error
    told_difference = difference(expected, actual, exact)
    if told_difference is not None:
        raise CaptureError(_not_the_same(captured, inputs, told_difference))
    return captured


def _not_the_same(captured: Captured, inputs: Inputs, told: str) -> str:
    notes = f" ({'; '.join(captured.notes)})" if captured.notes else ""
    return (
        f"the captured graph ({captured.front_end}) does not answer as the model does to "
        f"{describe(inputs)}: {told}{notes}; the model probably changes its own state, "
        "draws random numbers while it is traced, or relies on hooks"
    )


def _renamed(raised: Raised) -> tuple[str, ...]:
    nameless = [new for old, new in raised.renamed if old.startswith(CONSTANT_PREFIX)]
    moved = [
        f"{old} -> {new}" for old, new in raised.renamed if not old.startswith(CONSTANT_PREFIX)
    ]
    notes = []
    if nameless:
        notes.append(f"weights without a name (of a frozen file) became {_first(nameless)}")
    if moved:
        notes.append(f"weights without a layer of their own were given one: {_first(moved)}")
    return tuple(notes)


def _first(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
