"""A new Relax module, and kernels of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from sepify.compiling.kernels.source import Kernel
from sepify.compiling.tvm_api.building import export
from sepify.compiling.tvm_api.names import Expr, Function, Module


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
        kind = relax.TensorType(kernel.output.shape, kernel.output.element.name)
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
    export(built, path, compiler)


def literal(array: NDArray[Any]) -> Expr:
    """A tensor constant."""
    return relax.const(np.ascontiguousarray(array), str(array.dtype))


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


def replace_function(module: Module, name: str, function: Function) -> None:
    """Put another PrimFunc in the place of `name`."""
    module.update_func(module.get_global_var(name), function)
