"""Any model -> a graph module whose convolutions are nn.Conv2d modules under their own names."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from sepify.capture.captured import Captured, checked
from sepify.capture.exported import example_inputs_of
from sepify.capture.front_ends import (
    from_export,
    from_graph_module,
    from_program,
    from_symbolic_trace,
    from_torchscript,
    from_value_tracer,
)
from sepify.capture.plain import has_hooks, plain_copy
from sepify.capture.reference import Reference, reference_run
from sepify.capture.supported import require_supported
from sepify.capture.torchscript import require_operators
from sepify.errors import CaptureError, InputError
from sepify.graph.comparing import difference
from sepify.graph.inputs import require_tensors, run_in_place
from sepify.process.state import keeps_process_state

Model = nn.Module | fx.GraphModule | torch.jit.ScriptModule | ExportedProgram


@keeps_process_state
def capture(
    model: Model,
    example_inputs: tuple[Tensor, ...] | None = None,
) -> Captured:
    """Capture `model`, which is not changed, in the mode (training or evaluation) it is in.

    Args:
        model: an nn.Module, a GraphModule, a (loaded) ScriptModule, or an ExportedProgram.
        example_inputs: the model's inputs, batch first, of any batch size: `(B, C, H, W)` for an
            image network. TorchScript needs them, and modules that torch.fx alone cannot trace;
            an ExportedProgram mostly brings its own. Where there are any, the result is run on
            them beside the model and must answer the same.

    A module is tried with torch.fx, then with the value-carrying tracer, then with torch.export.

    Raises:
        CaptureError: the model cannot be captured, or the captured one answers otherwise.
        InputError: example inputs are needed, or the model does not accept those given.
    """
    inputs = None if example_inputs is None else require_tensors(example_inputs)
    if isinstance(model, ExportedProgram):
        return from_program(model, inputs or example_inputs_of(model))
    if not isinstance(model, nn.Module):
        raise InputError(
            f"cannot capture a {type(model).__name__}: give an nn.Module, a torch.fx.GraphModule, "
            "a module from torch.jit.load or a torch.export.ExportedProgram"
        )
    require_supported(model)
    if isinstance(model, torch.jit.ScriptModule):
        require_operators(model)  # before it runs
    reference = None if inputs is None else reference_run(model, inputs)
    expected = None if reference is None else reference.expected
    own = None if reference is None else reference.own_state
    if isinstance(model, torch.jit.ScriptModule):
        return checked(from_torchscript(model, inputs), expected, inputs, own)
    if isinstance(model, fx.GraphModule):
        return checked(from_graph_module(model), expected, inputs, own)
    return _from_module(model, reference)


def _from_module(model: nn.Module, reference: Reference | None) -> Captured:
    """The first of the three front ends that succeeds; the error of the second if none does, as it
    names the layer and the line."""
    try:
        return from_symbolic_trace(model, reference)
    except CaptureError as error:
        if reference is None:
            raise CaptureError(
                f"{error}; with example_inputs, two more front ends can try: a tracer that follows "
                "their sizes, and torch.export"
            ) from error
        told = [str(error)]  # not the error itself, which would keep every copy of the model
    ways = _ways_with_hooks(model, reference)
    for hooks in ways:
        try:
            return from_value_tracer(model, told[0], reference, hooks)
        except CaptureError as error:
            told.append(str(error))
    for hooks in ways:
        try:
            return from_export(model, told[-1], reference, hooks)
        except CaptureError as error:
            last = str(error)
    raise CaptureError(f"{told[-1]}; and {last}")


def _ways_with_hooks(model: nn.Module, reference: Reference) -> tuple[bool, ...]:
    """Whether to trace the model's hooks too, in the order to try: only so, if without them it
    answers otherwise."""
    if not any(map(has_hooks, model.modules())):
        return (False,)
    try:
        answer = run_in_place(plain_copy(model).module, reference.inputs)
        matter = difference(reference.expected, answer, exact=True) is not None
    except Exception:  # what a model does without its hooks is anyone's guess
        matter = True
    return (True,) if matter else (False, True)
