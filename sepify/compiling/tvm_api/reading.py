"""What stands in a Relax module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tvm
from numpy.typing import NDArray
from tvm import relax

from sepify.compiling.kernels.elements import FLOAT32, Element
from sepify.compiling.tvm_api.names import Expr, Function, Module


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


def shape(expression: Expr, element: Element = FLOAT32) -> tuple[int, ...] | None:
    """The static shape of a tensor of such elements; None for anything else."""
    kind = expression.ty
    if not isinstance(kind, relax.TensorType) or kind.shape is None:
        return None
    if str(kind.dtype) != element.name:
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


def called_functions(module: Module) -> Iterable[str]:
    """The name of the PrimFunc of each call in `main`, in order."""
    for _, value in bindings(module):
        if operator(value) == "call_tir":
            yield str(value.args[0].name_hint)
