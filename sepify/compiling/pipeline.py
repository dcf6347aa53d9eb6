"""compile(): a model becomes code for one CPU, checked against torch before it is handed over."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from sepify.compiling.answers import take_apart
from sepify.compiling.budget import parse_budget
from sepify.compiling.dependencies import require_tvm
from sepify.compiling.model import (
    CompiledMetadata,
    CompiledModel,
    dtype_name,
    largest_relative_error,
    require_runnable,
)
from sepify.compiling.prepare import STAGES, prepare
from sepify.compiling.targets import Target, find_target
from sepify.errors import CompileError
from sepify.passes.pipelines import COMPILE, Pipeline
from sepify.process.progress import guarded
from sepify.process.state import keeps_process_state

MAX_RELATIVE_ERROR = 1e-4


@keeps_process_state
def compile(
    model: fx.GraphModule | nn.Module,
    x: Tensor | tuple[Tensor, ...],
    target: str | Target = "native",
    *,
    tune: str | int | None = None,
    database: Path | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    pipeline: Pipeline = COMPILE,
) -> CompiledModel:
    """Compile `model` for inference on a CPU, float32, at exactly the shapes of `x`.

    The model is not changed: a copy of it, in eval mode whatever mode `model` is in, is compiled.
    BatchNorm is folded; convolutions, pooling and fully connected layers become own kernels in a
    blocked layout, transposed and 1-d convolutions too; matrix products and the convolutions that
    have none (3-d, dilated transposed) run as MetaSchedule tuned them, or as TVM's plain loops.

    Args:
        model: anything that `sepify.capture` takes.
        x: the example input `(N, C, H, W)`, or a tuple of inputs; N at least 1.
        target: a preset of `targets()`, or a Target; this CPU must be able to run it (a bundle
            for another one: `make_bundle`).
        tune: how long to search for faster kernels: trials in total (`500`), or a time
            (`"10min"`). Without it nothing is measured: own kernels are cut as the records or the
            built-in rules say, and what has none uses MetaSchedule's records, if there are any.
        database: folder of the tuning records; without it, `sepify` in the user's cache folder.
        progress: called with (what, done, total).
        pipeline: the passes: `sepify.passes.pipelines.COMPILE`, or that with passes of your own.

    Raises:
        UsageError: unknown target, or a `tune` that is no budget.
        InputError: `x` does not fit the model.
        CaptureError: the model cannot be turned into a graph.
        CompileError: an operator has no lowering, this CPU cannot run the target's code, or the
            result differs from torch's by more than 1e-4.
        DependencyError: TVM is not installed.
    """
    require_tvm()
    budget = parse_budget(tune)
    preset = find_target(target)
    started = time.monotonic()
    note = guarded(progress) or _silent

    from sepify.compiling import tvm_api, tvm_runtime

    require_here(preset)
    ready = prepare(model, x, preset, budget, database, note, pipeline=pipeline)
    note("building", 4, STAGES)
    lifted, weights = tvm_api.lift_weights(ready.module)
    planned = tvm_api.plan_memory(lifted, ready.tvm_target)
    executable = tvm_api.assemble(planned, ready.tvm_target)
    note("checking", 5, STAGES)

    metadata = CompiledMetadata(
        target=preset.name,
        tvm_target=preset.description or {},
        features=ready.features,
        input_shapes=tuple(tuple(tensor.shape) for tensor in ready.inputs),
        input_dtypes=tuple(dtype_name(tensor) for tensor in ready.inputs),
        returns=ready.returns,
        max_relative_error=0.0,
        seconds=0.0,
        versions={**tvm_runtime.VERSIONS, "torch": torch.__version__},
        kernels=ready.kernels,
        own_kernels=ready.own_kernels,
        tuned_kernels=ready.own.tuned,
        tuned_relative=round(ready.own.tuning.relative, 4),
        trials=ready.own.tuning.trials + ready.tuned.trials,
        failed_trials=ready.own.tuning.failed + ready.tuned.failed,
        records_reused=ready.own.reused + ready.tuned.reused,
        given_up=ready.tuned.given_up,
        memory=tvm_api.memory_use(planned, lifted=len(weights)),
    )
    compiled = CompiledModel(executable, weights, metadata)
    with torch.no_grad():
        error = largest_relative_error(take_apart(compiled(*ready.inputs))[0], ready.expected)
    if not error <= MAX_RELATIVE_ERROR:
        raise CompileError(
            f"the compiled network differs from torch by {error:.1e} of its largest output "
            f"(allowed: {MAX_RELATIVE_ERROR:.0e}); this is a bug in sepify or in TVM"
        )
    seconds = time.monotonic() - started
    final = replace(metadata, max_relative_error=error, seconds=round(seconds, 3))
    return CompiledModel(executable, weights, final)


def require_here(target: Target) -> None:
    """Raise CompileError unless this machine can run code for `target`, filled in."""
    from sepify.compiling import tvm_api

    if target.is_foreign:
        raise CompileError(
            f"code for {target.name} does not run on this machine: make a bundle for it "
            "(sepify compile MODEL --target T -o FOLDER)"
        )
    assert target.description is not None  # find_target has filled it in
    features = tvm_api.code_features(tvm_api.make_target(target.description))
    require_runnable(target.name, tuple(features))


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody wants to see."""
