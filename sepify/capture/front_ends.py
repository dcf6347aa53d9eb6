"""Each way to capture a model: a plain copy, a graph of it, its functional calls made modules."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from sepify.capture.captured import Captured, checked
from sepify.capture.comparing import difference
from sepify.capture.copying import copy_module
from sepify.capture.exported import (
    OPENNESS,
    Rebuilt,
    export_module,
    rebuild,
    run_program,
    varied,
)
from sepify.capture.inputs import Inputs, run_restored
from sepify.capture.leaves import mark_opaque_leaves
from sepify.capture.plain import is_training, made_plain, plain_copy, training_note
from sepify.capture.raising import raise_modules
from sepify.capture.reference import Reference
from sepify.capture.symbolic import drop_unresolved_annotations, symbolic_trace
from sepify.capture.torchscript import import_torchscript
from sepify.capture.widely import trace_widely
from sepify.errors import CaptureError, InputError

ALL_KINDS = ("conv", "bn", "linear", "dropout")


def from_graph_module(model: fx.GraphModule) -> Captured:
    """A copy, node by node as it was given.

    Raises CaptureError for the `module()` of an exported program, which neither trains nor pickles.
    """
    if hasattr(model, "_in_spec"):
        raise CaptureError(
            "the model is the module() of an exported program, which has lost its modes and can "
            "be neither pickled nor scripted; give the torch.export.ExportedProgram itself"
        )
    plain = plain_copy(model)
    assert isinstance(plain.module, fx.GraphModule)
    drop_unresolved_annotations(plain.module.graph)
    raised = raise_modules(plain.module)
    notes = (*plain.notes, *raised.notes, *training_note(model))
    return Captured(plain.module, "graph-module", "it was given as a graph already", notes)


def from_symbolic_trace(model: nn.Module, reference: Reference | None) -> Captured:
    """By torch.fx, which needs no inputs; they only tell which arguments are given, and what to
    compare the graph with."""
    if reference is None:
        return _symbolically(model, copy_module(model), None)
    with reference.lent() as copied:
        captured = _symbolically(model, copied, len(reference.inputs))
    return checked(captured, reference.expected, reference.inputs)


def _symbolically(model: nn.Module, copied: nn.Module, given: int | None) -> Captured:
    plain = made_plain(copied)
    traced = symbolic_trace(plain.module, given)
    notes = (*plain.notes, *traced.notes, *training_note(model))
    return Captured(traced.graph_module, "symbolic-trace", "torch.fx traces it as it is", notes)


def from_value_tracer(model: nn.Module, why: str, reference: Reference, hooks: bool) -> Captured:
    """By the tracer that knows every value; `why` is what torch.fx alone says, and `hooks` whether
    to trace those of the model too."""
    told: tuple[str, ...] = ()

    def plain(copied: nn.Module) -> nn.Module:
        nonlocal told
        told = made_plain(copied, hooks).notes
        return copied

    traced = trace_widely(plain, reference)
    notes = (*told, *traced.notes, *training_note(model))
    mark_opaque_leaves(traced.graph_module, reference.inputs)
    reason = f"torch.fx alone does not: {why}"
    captured = Captured(traced.graph_module, "value-tracer", reason, notes)
    if traced.compared:
        return captured
    return checked(captured, reference.expected, reference.inputs)


def from_export(model: nn.Module, why: str, reference: Reference, hooks: bool) -> Captured:
    """With as many sizes open as the model keeps to: what torch.export takes for any size may still
    follow Python's state, so the answers to other sizes are compared too."""
    plain = plain_copy(model, hooks)
    failure = "torch.export gives a program that answers otherwise at other sizes"
    for openness in OPENNESS:
        try:
            program = export_module(copy_module(plain.module), reference.inputs, openness)
            rebuilt = rebuild(program, type(model).__name__)
            notes = (*plain.notes, *_finish_export(rebuilt, model), *training_note(model))
            reason = f"torch.fx does not trace it: {why}"
            captured = Captured(rebuilt.graph_module, "torch-export", reason, notes)
            other = varied(reference.inputs, openness)
            if other is None or _agrees(reference, captured.graph_module, other):
                return checked(captured, reference.expected, reference.inputs)
        except CaptureError as error:
            failure = str(error)  # the error itself would keep every copy of the model
    raise CaptureError(failure)


def _agrees(reference: Reference, captured: fx.GraphModule, inputs: Inputs) -> bool:
    """Whether the captured model answers as the original does, where both answer."""
    expected = reference.answer(inputs)
    try:
        actual = run_restored(captured, inputs)
    except Exception:  # a size that it refuses, by whatever exception, is not answered
        return True
    return expected is None or difference(expected, actual, exact=False) is None


def _finish_export(rebuilt: Rebuilt, model: nn.Module | None) -> tuple[str, ...]:
    modes = {} if model is None else {n: is_training(m) for n, m in model.named_modules()}
    for name, module in rebuilt.graph_module.named_modules():
        module.training = modes.get(name, modes.get("", False))
    raised = raise_modules(rebuilt.graph_module, ALL_KINDS, rebuilt.ranks, rebuilt.state)
    return (*rebuilt.notes, *raised.notes)


def from_program(program: ExportedProgram, inputs: Inputs | None) -> Captured:
    """An exported program, compared with itself on `inputs` if there are any."""
    expected = None if inputs is None else run_program(program, inputs)
    rebuilt = rebuild(program)
    notes = _finish_export(rebuilt, None)
    notes += training_note(rebuilt.graph_module)
    reason = "it is an exported program, which cannot be rewritten as it is"
    captured = Captured(rebuilt.graph_module, "torch-export", reason, notes)
    return checked(captured, expected, inputs)


def from_torchscript(model: torch.jit.ScriptModule, inputs: Inputs | None) -> Captured:
    """By following a script along `inputs`, which it needs."""
    if inputs is None:
        raise InputError(
            "a TorchScript file does not hold the shape of its input: give example_inputs, such as "
            "(torch.rand(1, 3, 224, 224),) (at the shell: --input-shape 1,3,224,224)"
        )
    imported = import_torchscript(model, inputs)
    raised = raise_modules(imported.graph_module, ALL_KINDS, imported.ranks, imported.state)
    notes = (*imported.notes, *raised.notes, *training_note(model))
    reason = "it is TorchScript, which torch.fx cannot trace"
    return Captured(imported.graph_module, "torchscript", reason, notes)
