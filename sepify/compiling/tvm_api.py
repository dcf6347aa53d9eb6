"""The parts of TVM that change from release to release, in one place. Importing this loads tvm.

Written for apache-tvm 0.27.0 with apache-tvm-ffi 0.1.14.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tvm
import tvm_ffi
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program
from tvm.support.cc import cross_compiler
from tvm.target.codegen import llvm_get_cpu_archlist, llvm_get_cpu_features

from sepify.compiling.kernels.source import Kernel
from sepify.errors import CompileError, UsageError

# what LLVM puts into ordinary code; its other "features" are tuning hints or system instructions
_CODE_FEATURES = {
    *("fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt", "cx16"),  # x86
    *("neon", "fullfp16", "dotprod", "fp16fml", "complxnum", "bf16", "i8mm", "lse"),  # armv8
    *("sve", "sve2", "vfp4", "hwdiv-arm"),  # armv8, armv7
}
_CODE_PREFIXES = ("sse", "ssse", "avx")

VERSIONS = {"tvm": str(tvm.__version__), "tvm_ffi": str(tvm_ffi.__version__)}

Module = Any  # tvm.IRModule
Expr = Any  # tvm.relax.Expr
Function = Any  # tvm.tirx.PrimFunc


# --- the CPU ---------------------------------------------------------------------------------


def host_cpu() -> str:
    """LLVM's name of this CPU."""
    return str(_global("tvm.codegen.llvm.GetHostCPUName")())


def host_features() -> frozenset[str]:
    """Instruction set extensions that this CPU has and this system lets us use."""
    features = _global("tvm.codegen.llvm.GetHostCPUFeatures")()
    return frozenset(str(name) for name, present in features.items() if bool(present))


def make_target(description: dict[str, Any]) -> Any:
    """A `tvm.target.Target`. Raises UsageError if LLVM has no code generator for its triple."""
    try:
        return tvm.target.Target(description)
    except (ValueError, TypeError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"LLVM does not know this target: {first}") from error


def require_cpu(triple: str, cpu: str) -> None:
    """Raise UsageError if LLVM knows no such CPU, for which it would make generic code and say so
    in its log alone."""
    any_cpu = make_target({"kind": "llvm", "mtriple": triple})
    known = [str(name) for name in llvm_get_cpu_archlist(any_cpu)]
    if cpu not in known:
        near = difflib.get_close_matches(cpu, known) or known[:8]
        raise UsageError(f"LLVM knows no CPU {cpu!r} for {triple}; try {', '.join(near)}")


def code_features(target: Any) -> frozenset[str]:
    """Instruction set extensions that code compiled for `target` may contain."""
    names = (str(name) for name in llvm_get_cpu_features(target))
    return frozenset(n for n in names if n in _CODE_FEATURES or n.startswith(_CODE_PREFIXES))


def set_thread_count(count: int) -> int:
    """Use `count` threads of TVM's pool, of which there is one in a process; how many it uses now,
    which is less where the pool is smaller."""
    one_thread, share_all_cores = 1, -3  # modes; the second does not pin threads to cores
    mode = one_thread if count == 1 else share_all_cores
    _global("runtime.config_threadpool")(
        mode, count, [str(core) for core in sorted(os.sched_getaffinity(0))]
    )
    return int(_global("runtime.NumThreads")())


def _global(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] = tvm_ffi.get_global_func(name)
    return function


# --- import ----------------------------------------------------------------------------------


class UnknownOperators(CompileError):
    """TVM's importer does not know `operators`, named as `linalg_eig.default`."""

    def __init__(self, operators: tuple[str, ...]) -> None:
        super().__init__(f"TVM has no lowering for the operator {', '.join(operators)}")
        self.operators = operators


def import_exported(program: torch.export.ExportedProgram) -> Module:
    """A Relax module whose `main` is one dataflow block, weights as constants.

    Raises UnknownOperators, or another CompileError where the importer fails.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch's own copies of a program
            module = from_exported_program(program, unwrap_unit_return_tuple=True)
    except Exception as error:  # whatever an operator's converter stumbles over
        raise _import_failure(error) from error
    passes = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    return tvm.transform.Sequential(passes)(module)


def _import_failure(error: BaseException) -> CompileError:
    missing = re.search(r"Unsupported function types \[(.*?)\]", str(error))
    if missing:
        return UnknownOperators(tuple(re.findall(r"[\w.]+", missing[1])))
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CompileError(f"TVM could not import the network: {first}")


# --- reading Relax ---------------------------------------------------------------------------


def bindings(module: Module) -> list[tuple[Any, Any]]:
    """(variable, expression) of `main`, in order."""
    blocks = module["main"].body.blocks
    return [(binding.var, binding.value) for block in blocks for binding in block.bindings]


def parameters(module: Module) -> list[Any]:
    """The inputs of `main`."""
    return list(module["main"].params)


def result(module: Module) -> Expr:
    """What `main` returns."""
    return module["main"].body.body


def operator(expression: Expr) -> str:
    """The operator's name without `relax.`, or "" for what is no call of an operator."""
    if isinstance(expression, relax.Call) and isinstance(expression.op, tvm.ir.Op):
        return str(expression.op.name).removeprefix("relax.")
    return ""


def is_variable(expression: Expr) -> bool:
    """Whether it is a variable of the function."""
    return isinstance(expression, relax.Var)


def fields(expression: Expr) -> list[Expr] | None:
    """The parts of a tuple, or None."""
    return list(expression.fields) if isinstance(expression, relax.Tuple) else None


def constant(expression: Expr) -> NDArray[Any] | None:
    """The value of a tensor constant, or None."""
    if isinstance(expression, tvm.ir.GenericConst):
        value: NDArray[Any] = expression.value.numpy()
        return value
    return None


def shape(expression: Expr) -> tuple[int, ...] | None:
    """The static shape of a float32 tensor; None for anything else."""
    kind = expression.ty
    if not isinstance(kind, relax.TensorType) or kind.shape is None:
        return None
    if str(kind.dtype) != "float32":
        return None
    return tuple(int(extent) for extent in kind.shape)


def number(expression: Expr) -> float | None:
    """A number among an operator's arguments, or None."""
    value = getattr(expression, "value", None)
    value = getattr(value, "value", value)
    return float(value) if isinstance(value, (int, float)) else None


def substitute(expression: Expr, replace: Callable[[Any], Expr]) -> Expr:
    """`expression` with `replace(variable)` in the place of each variable."""
    if isinstance(expression, relax.Var):
        return replace(expression)
    if isinstance(expression, relax.Tuple):
        return relax.Tuple([substitute(field, replace) for field in expression.fields])
    if isinstance(expression, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expression.tuple_value, replace), expression.index)
    if isinstance(expression, relax.Call):
        arguments = [substitute(argument, replace) for argument in expression.args]
        return relax.Call(expression.op, arguments, expression.attrs, expression.ty_args)
    return expression


def with_arguments(call: Expr, arguments: Sequence[Expr]) -> Expr:
    """The same operator on other operands."""
    return relax.Call(call.op, list(arguments), call.attrs, call.ty_args)


# --- writing Relax ---------------------------------------------------------------------------


class Builder:
    """Writes a new `main` of one dataflow block, own kernels beside it."""

    def __init__(self, inputs: Sequence[Any]) -> None:
        self._builder = relax.BlockBuilder()
        self._kernels: dict[str, Any] = {}
        self.inputs = list(inputs)

    def write(self, body: Callable[[], Expr]) -> Module:
        """The module; `body` emits everything and returns the result."""
        with self._builder.function("main", self.inputs):
            with self._builder.dataflow():
                output = self._builder.emit_output(body())
            self._builder.emit_func_output(output)
        return self._builder.get()

    def emit(self, expression: Expr) -> Any:
        """Bind an expression."""
        return self._builder.emit(expression)

    def call(self, kernel: Kernel, arguments: Sequence[Expr]) -> Any:
        """Bind the output of an own kernel."""
        if kernel.name not in self._kernels:
            function = parse_kernel(kernel).without_attr("global_symbol")
            self._kernels[kernel.name] = self._builder.add_func(function, kernel.name)
        kind = relax.TensorType(kernel.output.shape, "float32")
        return self.emit(relax.call_tir(self._kernels[kernel.name], list(arguments), out_ty=kind))


def parse_kernel(kernel: Kernel) -> Function:
    """The PrimFunc of a kernel."""
    return tvm.script.from_source(kernel.script)


def build_kernel(kernel: Kernel, target: Any) -> Callable[..., None]:
    """A kernel on its own, to call with TVM tensors: inputs, then the output."""
    function = parse_kernel(kernel).with_attr("global_symbol", kernel.name)
    built: Callable[..., None] = tvm.compile(tvm.IRModule({kernel.name: function}), target)[
        kernel.name
    ]
    return built


def build_library(kernel: Kernel, target: Any, path: Path, compiler: str) -> None:
    """A kernel on its own as a shared library for another machine, linked by `compiler`."""
    function = parse_kernel(kernel).with_attr("global_symbol", kernel.name)
    built = tvm.tirx.build(tvm.IRModule({kernel.name: function}), target=target)
    built.export_library(str(path), fcompile=cross_compiler(compiler, options=["-s"]))


def connect(host: str, port: int, key: str, secret: str, limit: float) -> Any:
    """A session on a board that runs our server; it ends after `limit` seconds, there."""
    from tvm import rpc

    return rpc.connect(host, port, f"{key} -secret={secret}", session_timeout=int(limit))


def describe_board(session: Any) -> str:
    """What a board's server says of it. Raises CompileError if it is of an older sepify."""
    try:
        tell = session.get_function("sepify.board")
    except AttributeError as error:
        raise CompileError(
            "its server is of an older sepify: copy a new bundle there, and start that one"
        ) from error
    return str(tell())


def set_remote_threads(session: Any, count: int | None) -> int:
    """Use `count` threads of a board's pool, on its fast cores, or leave it at TVM's own choice;
    how many it uses now."""
    fast_cores = 1  # a mode
    if count is not None:
        session.get_function("runtime.config_threadpool")(fast_cores, count)
    return int(session.get_function("runtime.NumThreads")())


class RemoteNetwork:
    """An exported network on a board, with its inputs."""

    def __init__(self, session: Any, library: Path, inputs: Sequence[NDArray[Any]]) -> None:
        session.upload(str(library))
        self._device = session.cpu(0)
        self._machine = relax.VirtualMachine(session.load_module(library.name), self._device)
        self._machine.set_input("main", *(tensor(array, self._device) for array in inputs))

    def outputs(self) -> list[NDArray[Any]]:
        """What it computes there."""
        self._machine.invoke_stateful("main")
        value = self._machine.get_outputs("main")
        parts = [value] if isinstance(value, tvm.runtime.Tensor) else list(value)
        return [part.numpy() for part in parts]

    def seconds(self, repeats: int, least_ms: int = 0) -> list[float]:
        """Of `repeats` inferences after one that is not timed; each the mean of as many as fill
        `least_ms`."""
        clock = self._machine.time_evaluator(
            "invoke_stateful", self._device, number=1, repeat=repeats, min_repeat_ms=least_ms
        )
        return [float(seconds) for seconds in clock("main").results]


def tensor(array: NDArray[Any], device: Any = None) -> Any:
    """A copy of the array for TVM, on this machine or on a board."""
    return tvm.runtime.tensor(np.ascontiguousarray(array), device=device)


def literal(array: NDArray[np.float32]) -> Expr:
    """A tensor constant."""
    return relax.const(np.ascontiguousarray(array), "float32")


def reshape(value: Expr, extents: Sequence[int]) -> Expr:
    """The same elements in another shape."""
    return relax.op.reshape(value, tuple(extents))


def first_columns(value: Expr, count: int) -> Expr:
    """`value[:, :count]`."""
    return relax.op.strided_slice(value, [1], [0], [count], [1])


def concatenate(values: Sequence[Expr]) -> Expr:
    """Joined along axis 1."""
    return relax.op.concat(list(values), 1)


def remove_dead_code(module: Module) -> Module:
    """Without bindings that nobody reads."""
    return relax.transform.DeadCodeElimination()(module)


# --- building and running --------------------------------------------------------------------


def fuse(module: Module, target: Any) -> Module:
    """What is not an own kernel yet: legalised to TIR and fused."""
    transform = relax.transform
    passes = [
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    with target:
        return tvm.transform.Sequential(passes)(module)


def functions(module: Module) -> dict[str, Function]:
    """The PrimFuncs by name."""
    found = {}
    for name, function in module.functions.items():
        if isinstance(function, tvm.tirx.PrimFunc):
            found[str(name.name_hint)] = function
    return found


def is_own(function: Function) -> bool:
    """Whether a PrimFunc is one of our kernels."""
    return bool(function.attrs is not None and "sepify.kernel" in function.attrs)


def replace_function(module: Module, name: str, function: Function) -> None:
    """Put another PrimFunc in the place of `name`."""
    module.update_func(module.get_global_var(name), function)


def called_functions(module: Module) -> Iterable[str]:
    """The name of the PrimFunc of each call in `main`, in order."""
    for _, value in bindings(module):
        if operator(value) == "call_tir":
            yield str(value.args[0].name_hint)


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
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CompileError(f"TVM could not lower the network: {first}") from error


def assemble(planned: Module, target: Any) -> Any:
    """The executable of a module from `plan_memory`. Raises CompileError if LLVM fails."""
    try:
        with target:
            return tvm.compile(planned, target, relax_pipeline=None)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CompileError(f"TVM could not build the network: {first}") from error


def memory_use(planned: Module) -> dict[str, int]:
    """Bytes that a module from `plan_memory` keeps: its weights, its inputs, and the buffers for
    activations and outputs, each of which several values may use in turn."""
    weights: dict[int, int] = {}
    activations = 0
    for _, value in bindings(planned):
        if operator(value) == "vm.alloc_storage":
            activations += math.prod(int(extent) for extent in value.args[0].values)
        for argument in getattr(value, "args", ()):
            array = getattr(argument, "value", None)
            if isinstance(array, tvm.runtime.Tensor):
                weights[hash(array)] = math.prod(array.shape) * _item_bytes(array.dtype)
    inputs = sum(_bytes(variable) for variable in parameters(planned))
    return {"weights": sum(weights.values()), "activations": activations, "inputs": inputs}


def _bytes(variable: Any) -> int:
    kind = variable.ty
    return math.prod(int(extent) for extent in kind.shape) * _item_bytes(kind.dtype)


def _item_bytes(dtype: Any) -> int:
    return int(np.dtype(str(dtype)).itemsize)


def export(executable: Any, path: Path, compiler: str | None = None) -> None:
    """Write the executable, weights inside, as a shared library, linked by `compiler` or the
    system's. Raises CompileError if that fails."""
    link = None if compiler is None else cross_compiler(compiler, options=["-s"])
    try:
        with _quiet():
            executable.export_library(str(path), fcompile=link)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if "error" in line.lower()] or [""]
        raise CompileError(f"linking {path.name} failed: {lines[0].strip()}") from error


def load(path: Path) -> Any:
    """An executable from a shared library."""
    with _quiet():
        return tvm.runtime.load_module(str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what TVM's C++ writes to stderr: a warning about the scope of each constant."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def start(executable: Any) -> Callable[..., Any]:
    """The entry point of the executable, ready to call with TVM tensors, and its machine."""
    machine = relax.VirtualMachine(executable, tvm.cpu())
    entry: Callable[..., Any] = machine["main"]
    return entry


def borrow(tensor: torch.Tensor) -> Any:
    """The tensor's memory as a TVM tensor; copied only where it is not aligned as TVM expects."""
    if tensor.data_ptr() % 64:
        tensor = tensor.clone()
    return tvm.runtime.from_dlpack(tensor)


def lend(value: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """TVM's result as torch tensors on the same memory."""
    if isinstance(value, tvm.runtime.Tensor):
        return from_dlpack(value)
    return tuple(from_dlpack(part) for part in value)
