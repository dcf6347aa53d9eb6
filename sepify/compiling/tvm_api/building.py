"""From a Relax module to an executable, and to a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from sepify.compiling.c_compiler import run_compiler, system_compiler
from sepify.compiling.tvm_api.names import Module
from sepify.compiling.tvm_api.objects import write_objects
from sepify.compiling.tvm_api.reading import bindings, operator, parameters
from sepify.errors import CompileError, DependencyError, first_line
from sepify.storage import temporary_folder


def fuse(module: Module, target: Any) -> Module:
    """What is not an own kernel yet: legalised to TIR and fused."""
    transform = relax.transform
    passes = [
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        _keep_pads_apart,
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    with target:
        return tvm.transform.Sequential(passes)(module)


@tvm.transform.module_pass(opt_level=0, name="KeepPadsApart")  # type: ignore[untyped-decorator]
def _keep_pads_apart(module: Module, _context: Any) -> Module:
    """No pad in one kernel with what comes before it: MetaSchedule's schedules of a convolution
    that is padded afterwards are wrong."""
    opaque = 8  # TVM's OpPatternKind
    for name, function in module.functions_items():
        if isinstance(function, tvm.tirx.PrimFunc) and name.name_hint.startswith("pad"):
            module[name] = function.with_attr("op_pattern", opaque)
    return module


def build(module: Module, target: Any) -> Any:
    """The executable. Raises CompileError if LLVM or a pass fails."""
    return assemble(plan_memory(module, target), target)


def plan_memory(module: Module, target: Any) -> Module:
    """The module down to calls and buffers, which `memory_use` can count and `assemble` build.
    Raises CompileError if a pass fails."""
    try:
        with target:
            return relax.get_default_pipeline(target)(module)
    except Exception as error:
        raise CompileError(f"TVM could not lower the network: {first_line(error)}") from error


def assemble(planned: Module, target: Any) -> Any:
    """The executable of a module from `plan_memory`. Raises CompileError if LLVM fails."""
    try:
        with target:
            return tvm.compile(planned, target, relax_pipeline=None)
    except Exception as error:
        raise CompileError(f"TVM could not build the network: {first_line(error)}") from error


def memory_use(planned: Module, lifted: int = 0) -> dict[str, int]:
    """Bytes that a module from `plan_memory` keeps: its weights, `lifted` of them the last
    parameters, its inputs, and the buffers for activations and outputs, each of which several
    values may use in turn."""
    weights: dict[int, int] = {}
    activations = 0
    for _, value in bindings(planned):
        if operator(value) == "vm.alloc_storage":
            activations += math.prod(int(extent) for extent in value.args[0].values)
        for argument in getattr(value, "args", ()):
            array = getattr(argument, "value", None)
            if isinstance(array, tvm.runtime.Tensor):
                weights[hash(array)] = math.prod(array.shape) * _item_bytes(array.dtype)
    sizes = [_bytes(variable) for variable in parameters(planned)]
    inputs = len(sizes) - lifted
    return {
        "weights": sum(weights.values()) + sum(sizes[inputs:]),
        "activations": activations,
        "inputs": sum(sizes[:inputs]),
    }


def _bytes(variable: Any) -> int:
    kind = variable.ty
    return math.prod(int(extent) for extent in kind.shape) * _item_bytes(kind.dtype)


def _item_bytes(dtype: Any) -> int:
    return int(np.dtype(str(dtype)).itemsize)


def export(
    executable: Any, path: Path, compiler: str | None = None, carried: Sequence[Path] = ()
) -> None:
    """Write the executable, weights inside, as a shared library, linked by `compiler` or the
    system's, with the object files `carried` in it. Raises CompileError if that fails, FileError
    where there is no room for it, DependencyError without a compiler."""
    linker = compiler or system_compiler()
    if linker is None:
        raise DependencyError(f"linking {path.name} needs a C compiler: apt install gcc")
    options = ["-shared", "-fPIC", *(["-s"] if compiler else [])]
    with temporary_folder() as folder:
        objects = write_objects(executable, folder)
        run_compiler(linker, [*options, *objects, *carried], path)
