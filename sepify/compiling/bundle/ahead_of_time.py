"""Relax -> Program and an object file: what is left of TVM is gone before the device is reached.
Importing this loads tvm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm_ffi import structural_walk

from sepify.compiling import tvm_api
from sepify.compiling.bundle.program import Call, Program, Tensor, aligned, is_known
from sepify.errors import CompileError, first_line
from sepify.storage import temporary_folder

_ADVICE = "use the bundle with TVM's runtime (--bundle runtime)"


def ahead_of_time(module: Any, target: Any, prefix: str) -> tuple[Program, list[bytes]]:
    """The program of a lowered module and its kernels as object files; kernels are named
    `prefix_...`.

    Raises CompileError for what needs TVM's runtime: values other than tensors, kernels that call
    functions of the runtime, types that C does not have.
    """
    planned = _plan(module, target)
    kernels = {
        name: function
        for name, function in tvm_api.functions(planned).items()
        if name in set(_called(planned))
    }
    program = _Reader(planned, prefix).program(max(map(_workspace, kernels.values()), default=0))
    for name, function in kernels.items():
        _require_self_contained(name, function)
    return program, _objects(kernels, target, prefix)


def _plan(module: Any, target: Any) -> Any:
    """Every intermediate value at a fixed place of a few blocks of memory."""
    transform = relax.transform
    passes = [
        transform.RewriteDataflowReshape(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
        transform.StaticPlanBlockMemory(),
    ]
    with target:
        return tvm.transform.Sequential(passes)(module)


def _called(module: Any) -> Iterable[str]:
    for _, value in tvm_api.bindings(module):
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
            yield str(value.op.name_hint)


class _Reader:
    """Walks `main` once, giving each variable its place."""

    def __init__(self, module: Any, prefix: str) -> None:
        self._module = module
        self._prefix = prefix
        self._tensors: list[Tensor] = []
        self._places: dict[Any, int] = {}  # of variables
        self._blocks: dict[Any, int] = {}  # offsets of storages
        self._tuples: dict[Any, Any] = {}
        self._weights = bytearray()
        self._arena = 0

    def program(self, workspace: int) -> Program:
        inputs = []
        for variable in tvm_api.parameters(self._module):
            inputs.append(self._in_arena(variable))
            self._places[variable] = inputs[-1]
        calls = []
        for variable, value in tvm_api.bindings(self._module):
            if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar):
                name = f"{self._prefix}_{value.op.name_hint}"
                calls.append(Call(name, tuple(self._place(item) for item in value.args)))
            else:
                self._bind(variable, value)
        result = tvm_api.result(self._module)
        outputs = []
        for part in tvm_api.fields(self._resolve(result)) or [result]:
            outputs.append(self._place(part))
        return Program(
            tuple(self._tensors),
            tuple(calls),
            tuple(inputs),
            tuple(outputs),
            bytes(self._weights),
            self._arena,
            workspace,
        )

    def _bind(self, variable: Any, value: Any) -> None:
        operator = tvm_api.operator(value)
        if operator == "memory.alloc_storage":
            self._blocks[variable] = self._take(_extents(value.args[0])[0])
        elif operator == "memory.alloc_tensor":
            offset = self._blocks[value.args[0]] + int(value.args[1].value)
            self._places[variable] = self._add(Tensor(False, offset, *_type(variable)))
        elif operator == "builtin.alloc_tensor":
            self._places[variable] = self._in_arena(variable)
        elif operator == "reshape":
            source = self._tensors[self._place(value.args[0])]
            self._places[variable] = self._add(
                Tensor(source.in_weights, source.offset, *_type(variable))
            )
        elif operator in ("memory.kill_tensor", "memory.kill_storage"):
            pass
        elif isinstance(value, relax.Tuple):
            self._tuples[variable] = value
        elif tvm_api.is_variable(value) or tvm_api.constant(value) is not None:
            self._places[variable] = self._place(value)
        else:
            what = operator or type(value).__name__
            raise CompileError(f"{what} cannot be part of a C bundle: {_ADVICE}")

    def _resolve(self, expression: Any) -> Any:
        return self._tuples.get(expression, expression)

    def _place(self, expression: Any) -> int:
        value = tvm_api.constant(expression)
        if value is None:
            if expression not in self._places:
                what = type(expression).__name__
                raise CompileError(f"a {what} cannot be part of a C bundle: {_ADVICE}")
            return self._places[expression]
        dtype = str(value.dtype)
        if not is_known(dtype):
            raise CompileError(f"a constant of type {dtype} cannot be part of a C bundle")
        self._weights.extend(bytes(aligned(len(self._weights)) - len(self._weights)))
        offset = len(self._weights)
        self._weights.extend(np.ascontiguousarray(value).tobytes())
        return self._add(Tensor(True, offset, tuple(value.shape), dtype))

    def _in_arena(self, variable: Any) -> int:
        tensor = Tensor(False, self._arena, *_type(variable))
        self._take(tensor.bytes)
        return self._add(tensor)

    def _take(self, size: int) -> int:
        offset = self._arena
        self._arena += aligned(size)
        return offset

    def _add(self, tensor: Tensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1


def _extents(shape: Any) -> tuple[int, ...]:
    return tuple(int(extent) for extent in shape.values)


def _type(variable: Any) -> tuple[tuple[int, ...], str]:
    kind = variable.ty
    if not isinstance(kind, relax.TensorType) or kind.shape is None:
        raise CompileError(f"a value that is no tensor cannot be part of a C bundle: {_ADVICE}")
    dtype = str(kind.dtype)
    if not is_known(dtype):
        raise CompileError(f"a tensor of type {dtype} cannot be part of a C bundle")
    return tuple(int(extent) for extent in kind.shape), dtype


def _workspace(function: Any) -> int:
    """Bytes of scratch memory that a thread in this kernel may hold, at most."""
    total = 0

    def add(*buffers: Any) -> None:
        nonlocal total
        total += sum(aligned(_buffer_bytes(buffer)) for buffer in buffers)

    structural_walk(
        function.body,
        [
            (tvm.s_tir.SBlock, lambda block: add(*block.alloc_buffers)),
            (tvm.tirx.AllocBuffer, lambda statement: add(statement.buffer)),
        ],
    )
    return total


def _buffer_bytes(buffer: Any) -> int:
    size = np.dtype("uint8" if str(buffer.dtype) == "bool" else str(buffer.dtype)).itemsize
    for extent in buffer.shape:
        size *= int(extent)
    return int(size)


def _require_self_contained(name: str, function: Any) -> None:
    def refuse(call: Any) -> None:
        if "call_packed" in str(getattr(call.op, "name", "")):
            raise CompileError(f"{name} calls {call.args[0]} of TVM's runtime: {_ADVICE}")

    structural_walk(function.body, (tvm.ir.Call, refuse))


def _objects(kernels: dict[str, Any], target: Any, prefix: str) -> list[bytes]:
    named = {
        f"{prefix}_{name}": function.with_attr("global_symbol", f"{prefix}_{name}")
        for name, function in kernels.items()
    }
    try:
        library = tvm.tirx.build(tvm.IRModule(named), target=target)
    except Exception as error:  # LLVM's, or a pass's
        raise CompileError(f"TVM could not build the kernels: {first_line(error)}") from error
    with temporary_folder() as folder:
        return [path.read_bytes() for path in tvm_api.write_objects(library, folder)]
