"""An exported program as something to ask and to run: its example inputs, its stored tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from sepify.capture.own_state import OwnState, calls_of
from sepify.errors import CaptureError, InputError, first_line
from sepify.graph.comparing import difference
from sepify.graph.inputs import Inputs, describe

STORED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def input_specs(program: ExportedProgram) -> list[InputSpec]:
    """What each placeholder of the program stands for, in order.

    Raises CaptureError for a program that holds objects other than tensors.
    """
    specs = list(program.graph_signature.input_specs)
    for spec in specs:
        if spec.kind not in (*STORED, InputKind.USER_INPUT):
            raise CaptureError(
                f"the exported program holds '{spec.target}', which is not a tensor but "
                f"{spec.kind.name.lower().replace('_', ' ')}; export a model of tensors alone"
            )
    return specs


def stored_tensor(program: ExportedProgram, name: str) -> Tensor:
    """The parameter, buffer or constant called `name`."""
    held: Mapping[str, Any] = program.state_dict
    value = held[name] if name in held else program.constants[name]
    assert isinstance(value, Tensor)
    return value


def example_inputs_of(program: ExportedProgram) -> Inputs | None:
    """The tensors that the program was exported with, in the order of its inputs; None if it was
    saved without them."""
    given = pytree.tree_leaves(program.example_inputs)
    tensors = tuple(x for x in given if isinstance(x, Tensor))
    return tensors or None


State = dict[str, Tensor]


def state_of_program(program: ExportedProgram, inputs: Inputs) -> OwnState | None:
    """What the program keeps from call to call, if it answers otherwise after one than fresh."""
    written = tuple(program.graph_signature.buffers_to_mutate.values())
    if not written:
        return None
    _, *others = calls = calls_of(inputs)
    state: State = {}
    answers = tuple(run_program(program, given, state) for given in calls)
    fresh = [run_program(program, given) for given in others]
    if all(difference(*pair, exact=True) is None for pair in zip(fresh, answers[1:], strict=True)):
        return None
    return OwnState(written, calls, answers, {name: state[name] for name in written})


def run_program(program: ExportedProgram, inputs: Inputs, state: State | None = None) -> Any:
    """What the program answers to copies of `inputs`, without the refusal of batch sizes that its
    guards would utter; the program is not changed. What it writes to its buffers is put into
    `state`, from which it is read in the next call.

    Raises InputError, with what was given and what was exported, if it does not accept them.
    """
    specs = input_specs(program)
    left = [x.clone() for x in inputs]
    wanted = [s for s in specs if s.kind is InputKind.USER_INPUT and _is_tensor(s)]
    if len(wanted) != len(left):
        names = ", ".join(str(spec.arg.name) for spec in wanted)
        given = f"{len(left)} example input{'s were' if len(left) > 1 else ' was'} given"
        raise InputError(f"{given} but the exported program takes ({names})")
    arguments: list[Any] = []
    for spec in specs:
        if spec.kind in STORED:
            known = (state or {}).get(str(spec.target))
            held = stored_tensor(program, str(spec.target)) if known is None else known
            arguments.append(held.detach().clone())
        else:
            arguments.append(left.pop(0) if _is_tensor(spec) else getattr(spec.arg, "value", None))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs = program.graph_module(*arguments)
    except Exception as error:  # an operator refuses its operands with any exception
        raise InputError(
            f"the exported program does not accept the example input {describe(inputs)}; it was "
            f"exported for {_exported_for(program)}, and says: {first_line(error)}"
        ) from error
    mutations = len(outputs) - len(program.graph_signature.user_outputs)
    if state is not None:
        for spec, value in zip(program.graph_signature.output_specs, outputs, strict=True):
            if spec.kind is OutputKind.BUFFER_MUTATION:
                state[str(spec.target)] = value.detach().clone()
    return pytree.tree_unflatten(outputs[mutations:], program.call_spec.out_spec)


def _is_tensor(spec: InputSpec) -> bool:
    return isinstance(spec.arg, TensorArgument)


def _exported_for(program: ExportedProgram) -> str:
    names = {s.arg.name for s in input_specs(program) if s.kind is InputKind.USER_INPUT}
    shapes = [
        " x ".join("any" if isinstance(n, torch.SymInt) else str(n) for n in node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names and hasattr(node.meta["val"], "shape")
    ]
    return ", ".join(f"({shape})" for shape in shapes)
