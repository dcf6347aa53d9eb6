"""compile(): a model becomes code for one CPU, checked against torch before it is handed over."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from sepify.capture import capture
from sepify.compiling.budget import parse_budget
from sepify.compiling.dependencies import require_tvm
from sepify.compiling.model import (
    CompiledMetadata,
    CompiledModel,
    as_tuple,
    dtype_name,
    largest_relative_error,
    require_runnable,
)
from sepify.compiling.targets import find_target
from sepify.compiling.tuning import Tuned, tune_operators
from sepify.errors import CompileError, InputError
from sepify.passes.fold_batchnorm import fold_batchnorm

MAX_RELATIVE_ERROR = 1e-4
_STAGES = 6


def compile(
    model: fx.GraphModule | nn.Module,
    x: Tensor | tuple[Tensor, ...],
    target: str = "native",
    *,
    tune: str | int | None = None,
    database: Path | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> CompiledModel:
    """Compile `model` for inference on a CPU, float32, at exactly the shapes of `x`.

    The model is not changed: a copy of it, in eval mode whatever mode `model` is in, is compiled.
    BatchNorm is folded; convolutions, pooling and fully connected layers become own kernels in a
    blocked layout; convolutions without one (transposed, 1-d, 3-d) are tuned by MetaSchedule.

    Args:
        model: anything that `sepify.capture` takes.
        x: the example input `(N, C, H, W)`, or a tuple of inputs; N at least 1.
        target: a preset of `targets()`; this CPU must be able to run it.
        tune: how long MetaSchedule may search: trials in total (`500`), or a time (`"10min"`).
            Without it, a few trials for each operator that needs any.
        database: folder of the tuning records; without it, `sepify` in the user's cache folder.
        progress: called with (what, done, total).

    Raises:
        UsageError: unknown target, or a `tune` that is no budget.
        InputError: `x` does not fit the model.
        CaptureError: the model cannot be turned into a graph.
        CompileError: an operator has no lowering, this CPU cannot run the target's code, every
            tuning candidate failed, or the result differs from torch's by more than 1e-4.
        DependencyError: TVM is not installed.
    """
    require_tvm()
    budget = parse_budget(tune)
    preset = find_target(target)
    inputs = x if isinstance(x, tuple) else (x,)
    if not inputs or not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise InputError("the example input must be a tensor or a tuple of tensors")
    started = time.monotonic()
    note = progress or _silent

    from sepify.compiling import tvm_api
    from sepify.compiling.lowering import lower

    description, machine = preset.description, preset.machine
    assert description is not None  # find_target has filled them in
    assert machine is not None
    tvm_target = tvm_api.make_target(description)
    features = tuple(sorted(tvm_api.code_features(tvm_target)))
    require_runnable(preset.name, features)

    with torch.no_grad():
        note("capturing", 0, _STAGES)
        frozen = copy.deepcopy(model).eval()
        expected = _run(frozen, inputs)
        folded = fold_batchnorm(capture(frozen, inputs).graph_module.eval())
        note("exporting", 1, _STAGES)
        module = tvm_api.import_exported(_export(folded, inputs))
        note("lowering", 2, _STAGES)
        module = tvm_api.fuse(lower(module, machine), tvm_target)
        note("tuning", 3, _STAGES)
        tuned = tune_operators(module, description, budget, database, note)
        note("building", 4, _STAGES)
        calls = list(tvm_api.called_functions(module))
        own = [name for name, f in tvm_api.functions(module).items() if tvm_api.is_own(f)]
        executable = tvm_api.build(module, tvm_target)
        note("checking", 5, _STAGES)

    metadata = CompiledMetadata(
        target=preset.name,
        tvm_target=description,
        features=features,
        input_shapes=tuple(tuple(tensor.shape) for tensor in inputs),
        input_dtypes=tuple(dtype_name(tensor) for tensor in inputs),
        output="tensor" if isinstance(expected, Tensor) else "tuple",
        max_relative_error=0.0,
        seconds=0.0,
        versions={**tvm_api.VERSIONS, "torch": torch.__version__},
        kernels=_count(calls, own, tuned),
        own_kernels=dict(Counter(_kind(name) for name in calls if name in own)),
        trials=tuned.trials,
        failed_trials=tuned.failed,
        records_reused=tuned.reused,
    )
    error = largest_relative_error(CompiledModel(executable, metadata)(*inputs), expected)
    if not error <= MAX_RELATIVE_ERROR:
        raise CompileError(
            f"the compiled network differs from torch by {error:.1e} of its largest output "
            f"(allowed: {MAX_RELATIVE_ERROR:.0e}); this is a bug in sepify or in TVM"
        )
    seconds = time.monotonic() - started
    return CompiledModel(
        executable, replace(metadata, max_relative_error=error, seconds=round(seconds, 3))
    )


def _run(model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
    """What torch computes, which the compiled network must too."""
    try:
        output = model(*inputs)
    except Exception as error:  # the model's own code
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"the model does not run on the example input: {first}") from error
    parts = as_tuple(output)
    if not all(bool(torch.isfinite(part).all()) for part in parts):
        raise CompileError("the model's own output is not finite: NaN or infinity in its weights?")
    return output if isinstance(output, Tensor) else parts


def _export(model: fx.GraphModule, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(model, inputs)
    except Exception as error:  # torch.export raises dozens of types
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CompileError(f"torch.export refused the network: {first}") from error


def _count(calls: list[str], own: list[str], tuned: Tuned) -> dict[str, int]:
    by = Counter(
        "own" if name in own else "metaschedule" if name in tuned.operators else "default"
        for name in calls
    )
    return {maker: by[maker] for maker in ("own", "metaschedule", "default")}


def _kind(name: str) -> str:
    """`sepify_<kind>_<digest>` -> kind."""
    return name.removeprefix("sepify_").rpartition("_")[0]


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody wants to see."""
