"""A model lowered for a CPU, not built yet: what running it here and bundling it share."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from sepify.capture import capture
from sepify.compiling.answers import Structure, take_apart
from sepify.compiling.blame import layers_that_call
from sepify.compiling.budget import Budget
from sepify.compiling.decompositions import decompositions
from sepify.compiling.device.boards import Farm
from sepify.compiling.targets import Target
from sepify.compiling.tuning import Tuned, database_root, tune_operators
from sepify.errors import CompileError, InputError, first_line
from sepify.graph.copying import copy_module, copy_to_run
from sepify.passes.flatten_outputs import FlattenOutputs
from sepify.passes.pipelines import COMPILE, Pipeline, with_options
from sepify.passes.runner import run_passes

if TYPE_CHECKING:
    from sepify.compiling.lowering import Lowered

STAGES = 6

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Prepared:
    """Relax, every operator a PrimFunc: own kernels, tuned ones and TVM's plain ones.

    `kernels` and `own_kernels` are those of `CompiledMetadata`; `expected` are the tensors that
    torch computes for `inputs`, and `returns` is the structure that the model puts them in.
    """

    target: Target
    tvm_target: Any
    module: Any
    inputs: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]
    returns: Structure
    features: tuple[str, ...]
    kernels: dict[str, int]
    own_kernels: dict[str, int]
    own: Lowered
    tuned: Tuned


def prepare(
    model: fx.GraphModule | nn.Module,
    x: Tensor | tuple[Tensor, ...],
    target: Target,
    budget: Budget | None,
    database: Path | str | None,
    progress: Progress,
    farm: Farm | None = None,
    pipeline: Pipeline = COMPILE,
) -> Prepared:
    """Capture `model`, rewrite it by the passes of `pipeline`, lower and tune it at the shapes of
    `x`; `target` is filled in.

    Candidates are measured on this machine, or on the boards of `farm`, where MetaSchedule's are
    left untuned; without a `budget` nothing is tuned, but the records in
    the `database` are used. Raises what `sepify.compile` does.
    """
    from sepify.compiling import tvm_api
    from sepify.compiling.lowering import lower_with_records

    inputs = x if isinstance(x, tuple) else (x,)
    if not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise InputError("the example input must be a tensor or a tuple of tensors")
    description = target.description
    assert description is not None  # find_target has filled it in
    tvm_target = tvm_api.make_target(description)

    with torch.no_grad():
        progress("capturing", 0, STAGES)
        frozen = copy_module(model).eval()
        answer = _run(copy_to_run(frozen), inputs)
        expected, returns = take_apart(answer)
        _require_finite(expected)
        captured = capture(frozen, inputs)
        captured.require_no_state("compiled code keeps nothing from call to call")
        passes = with_options(pipeline, {FlattenOutputs: {"example": answer}})
        rewritten = run_passes(captured.graph_module.eval(), passes).graph_module
        progress("exporting", 1, STAGES)
        module = _import(rewritten, inputs)
        progress("lowering", 2, STAGES)
        started = time.monotonic()
        own = lower_with_records(module, target, budget, database_root(database), progress, farm)
        module = own.module
        progress("tuning", 3, STAGES)
        tuned = Tuned()
        if budget is not None and farm is None:
            left = budget.rest(own.tuning.trials, time.monotonic() - started)
            tuned = tune_operators(module, description, left, database, progress)
        module = tvm_api.share_constants(module)
    calls = list(tvm_api.called_functions(module))
    ours = [name for name, f in tvm_api.functions(module).items() if tvm_api.is_own(f)]
    return Prepared(
        target=target,
        tvm_target=tvm_target,
        module=module,
        inputs=inputs,
        expected=expected,
        returns=returns,
        features=tuple(sorted(tvm_api.code_features(tvm_target))),
        kernels=_count(calls, ours, tuned),
        own_kernels=dict(Counter(_kind(name) for name in calls if name in ours)),
        own=own,
        tuned=tuned,
    )


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """What torch computes, which the compiled network must too."""
    try:
        return model(*inputs)
    except Exception as error:  # the model's own code
        first = first_line(error)
        raise InputError(f"the model does not run on the example input: {first}") from error


def _require_finite(expected: tuple[Tensor, ...]) -> None:
    if not all(bool(torch.isfinite(part).all()) for part in expected):
        raise CompileError("the model's own output is not finite: NaN or infinity in its weights?")


def _import(model: fx.GraphModule, inputs: tuple[Tensor, ...]) -> Any:
    """The network in Relax. Raises CompileError naming the layer of what cannot be imported."""
    from sepify.compiling import tvm_api

    try:
        return tvm_api.import_exported(_export(model, inputs))
    except tvm_api.UnknownOperators as error:
        where = layers_that_call(model, inputs, error.operators)
        raise CompileError(
            f"{error}{', called in ' + where if where else ''}; "
            "rewrite that layer with other operators, or run the model with another runtime"
        ) from error


def _export(model: fx.GraphModule, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    try:
        with warnings.catch_warnings():
            # of attributes that an LSTM sets, and of classes that torch itself is to give up
            warnings.simplefilter("ignore")
            program = torch.export.export(model, inputs)
            written = program.graph_signature.buffers_to_mutate.values()
            if written:
                names = ", ".join(f"'{name}'" for name in written)
                raise CompileError(
                    f"the network writes to {names} while it runs, which compiled code cannot: "
                    "leave that line out, or hand the state in and out as inputs and outputs"
                )
            decomposed: torch.export.ExportedProgram = program.run_decompositions(decompositions())
            return decomposed
    except CompileError:
        raise
    except Exception as error:  # torch.export raises dozens of types
        raise CompileError(f"torch.export refused the network: {first_line(error)}") from error


def _count(calls: list[str], own: list[str], tuned: Tuned) -> dict[str, int]:
    by = Counter(
        "own" if name in own else "metaschedule" if name in tuned.operators else "default"
        for name in calls
    )
    return {maker: by[maker] for maker in ("own", "metaschedule", "default")}


def _kind(name: str) -> str:
    """`sepify_<kind>_<digest>` -> kind."""
    return name.removeprefix("sepify_").rpartition("_")[0]
