"""Each way to capture a model: a plain copy, a graph of it, its functional calls made modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from sepify.capture.captured import Captured, checked, following
from sepify.capture.exported import (
    OPENNESS,
    Rebuilt,
    export_module,
    rebuild,
    run_program,
    state_of_program,
    varied,
)
from sepify.capture.leaves import mark_opaque_leaves
from sepify.capture.plain import made_plain, plain_copy, training_note
from sepify.capture.raising import raise_modules
from sepify.capture.reference import Reference
from sepify.capture.size_independent import trace_widely
from sepify.capture.symbolic import drop_unresolved_annotations, symbolic_trace
from sepify.capture.torchscript import import_torchscript
from sepify.errors import CaptureError, InputError
from sepify.graph.comparing import difference
from sepify.graph.copying import copy_module
from sepify.graph.inputs import Inputs, run_restored
from sepify.graph.modes import give_modes, modes_of
from sepify.graph.modules import set_module
from sepify.graph.own_memory import Memory

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
    return checked(captured, reference.expected, reference.inputs, reference.own_state)


@contextmanager
def _nothing_written(model: nn.Module) -> Iterator[None]:
    """Raise CaptureError where a trace writes to the model: the graph will not, and there is no
    input to find out with whether that matters."""
    before = Memory(model)
    buffers = [
        (name, buffer, buffer._version)
        for name, buffer in model.named_buffers()
        if not buffer.is_inference()
    ]
    yield
    names = [name for name, buffer, version in buffers if buffer._version != version]
    names += before.written(model) if before.changed() else ()
    names = [name for name in names if not name.startswith("_tensor_constant")]  # torch.fx's own
    if names:
        listed = ", ".join(f"'{name}'" for name in dict.fromkeys(names))
        raise CaptureError(
            f"the model writes to {listed} while it runs, which a graph may not; give "
            "example_inputs, with which it is tried whether that matters"
        )


def _symbolically(model: nn.Module, copied: nn.Module, given: int | None) -> Captured:
    plain = made_plain(copied)
    with _nothing_written(copied) if given is None else nullcontext():
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
    if not reference.is_undoable:  # what it left whole holds what traces and runs have left
        fresh = made_plain(copy_module(model), hooks).module
        _put_layers(traced.graph_module, fresh)
    notes = (*told, *traced.notes, *training_note(model))
    mark_opaque_leaves(traced.graph_module, reference.inputs)
    reason = f"torch.fx alone does not: {why}"
    captured = Captured(traced.graph_module, "value-tracer", reason, notes)
    if traced.compared:
        return following(captured, reference.inputs, reference.own_state)
    return checked(captured, reference.expected, reference.inputs, reference.own_state)


def _put_layers(graph_module: fx.GraphModule, fresh: nn.Module) -> None:
    """The layers that the graph calls as a whole, and the values of buffers, from `fresh`."""
    layers = dict(fresh.named_modules(remove_duplicate=False))
    for node in graph_module.graph.find_nodes(op="call_module"):
        path = str(node.target)
        kind = type(graph_module.get_submodule(path))
        if kind is type(layers.get(path)) and not kind.__module__.startswith("torch."):
            set_module(graph_module, path, layers[path])
    given = dict(fresh.named_buffers())
    for name, buffer in graph_module.named_buffers():
        if name in given and given[name].shape == buffer.shape:
            buffer.copy_(given[name])


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
                own = reference.own_state
                return checked(captured, reference.expected, reference.inputs, own)
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
    modes = {} if model is None else modes_of(model)
    give_modes(rebuilt.graph_module, modes, modes.get("", False))
    raised = raise_modules(rebuilt.graph_module, ALL_KINDS, rebuilt.ranks, rebuilt.state)
    return (*rebuilt.notes, *raised.notes)


def from_program(program: ExportedProgram, inputs: Inputs | None) -> Captured:
    """An exported program, compared with itself on `inputs` if there are any."""
    expected = None if inputs is None else run_program(program, inputs)
    own = None if inputs is None else state_of_program(program, inputs)
    rebuilt = rebuild(program)
    notes = _finish_export(rebuilt, None)
    notes += training_note(rebuilt.graph_module)
    reason = "it is an exported program, which cannot be rewritten as it is"
    captured = Captured(rebuilt.graph_module, "torch-export", reason, notes)
    return checked(captured, expected, inputs, own)


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
