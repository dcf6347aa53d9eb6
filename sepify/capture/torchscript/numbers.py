"""Arithmetic on sizes. A traced file does it with 0-d tensors (`aten::floor_divide` of what
`prim::NumToTensor` made); here it is arithmetic on Python numbers either way, which
torch.jit.script and torch.export follow."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sepify.capture.torchscript.machine import Machine
from sepify.capture.torchscript.operators import by_name, operator_of
from sepify.capture.torchscript.scalars import ARITHMETIC, COMPOSED, CONVERSIONS, negated_node
from sepify.capture.torchscript.values import Traced, concrete, is_number


def is_arithmetic(name: str, values: list[Any]) -> bool:
    """Whether the operator's operands are numbers (constant 0-d tensors count beside a number)."""
    if name not in ARITHMETIC and name not in COMPOSED and name not in CONVERSIONS:
        return False
    operands = values[:1] if name == "to" or name in CONVERSIONS else values[:2]
    return any(map(is_number, operands)) and all(
        is_number(value) or _is_constant_scalar(value) for value in operands
    )


def arithmetic(machine: Machine, node: Any, name: str, values: list[Any]) -> Any:
    """The result of the operator on numbers; recorded if a size takes part."""
    record = machine.recorder.function
    values = [as_number(value) for value in values]
    if all(not isinstance(value, Traced) for value in values) and name in _FOLDED:
        return _FOLDED[name](*values)
    if name == "to":
        return _to_dtype(machine, by_name(operator_of(node.schema()), values))
    if name in CONVERSIONS:
        return convert(machine, CONVERSIONS[name], values[0])
    if name == "__not__":
        return negated(machine, values[0])
    if name == "round":
        return record(math.floor, record(operator.add, values[0], 0.5))
    if name == "abs":
        negative = machine.recorder.assume(record(operator.lt, values[0], 0), node)
        return record(operator.neg, values[0]) if negative else values[0]
    if name in ("min", "max", "minimum", "maximum"):
        first_is_less = machine.recorder.assume(record(operator.le, *values), node)
        return values[0] if first_is_less == name.startswith("min") else values[1]
    if name == "rsub":
        values[:2], name = values[1::-1], "sub"
    if name in ("add", "sub") and len(values) == 3:
        first, second, alpha = values
        return record(ARITHMETIC[name], first, record(operator.mul, second, alpha))
    if name == "div" and len(values) == 3:
        if values[2] == "floor":
            return record(operator.floordiv, *values[:2])
        quotient = record(operator.truediv, *values[:2])
        return convert(machine, int, quotient) if values[2] == "trunc" else quotient
    return record(ARITHMETIC[name], *values)


_FOLDED: dict[str, Callable[..., Any]] = {
    **{"abs": abs, "min": min, "max": max, "minimum": min, "maximum": max},
    **{"round": round, "__not__": operator.not_},
}


def convert(machine: Machine, kind: type, value: Any) -> Any:
    """`int(value)`, `float(value)` or `bool(value)`."""
    known = concrete(value)
    if type(known) is kind or not isinstance(value, Traced):
        return value if isinstance(value, Traced) else kind(value)
    record = machine.recorder.function
    if kind is float:
        return record(operator.mul, value, 1.0)
    if kind is bool:
        return record(operator.ne, value, 0)
    if isinstance(known, bool):
        return record(operator.mul, value, 1)
    return record(math.floor if known >= 0 else math.ceil, value)


def negated(machine: Machine, value: Any) -> Any:
    """`not value`, as the opposite comparison."""
    if not isinstance(value, Traced):
        return not value
    return Traced(not value.concrete, negated_node(value.node), value.content)


def same_lists(machine: Machine, name: str, first: list[Any], second: list[Any]) -> Any:
    """`first == second` (or, for "ne", not) of two lists of sizes, item by item: that two tensors
    are of one shape says less than what their shape is."""
    differs = name == "ne"
    if len(first) != len(second):
        return differs
    same: Any = True
    for one, other in zip(first, second, strict=True):
        if one is other or not (isinstance(one, Traced) or isinstance(other, Traced)):
            if concrete(one) != concrete(other):
                return differs
            continue
        equal = machine.recorder.function(operator.eq, one, other)
        same = equal if same is True else machine.recorder.function(operator.and_, same, equal)
    return negated(machine, same) if differs else same


def as_tensor(machine: Machine, values: list[Any]) -> Any:
    """`torch.tensor(values)` of sizes, which torch.fx cannot trace, put together from scalars."""
    return machine.recorder.function(
        torch.stack, [machine.recorder.scalar_tensor(value) for value in values]
    )


def as_number(value: Any) -> Any:
    """A constant 0-d tensor as a number; float32 as the shortest decimal that rounds to it, so
    that size * 1.3 in double rounds as it does in float32."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype is torch.float32:
        return float(str(np.float32(value.item())))
    return value.item()


def _to_dtype(machine: Machine, named: Mapping[str, Any]) -> Any:
    """aten::to of a number: the Python type of the dtype, or of the tensor it is to be like."""
    dtype = concrete(named["other"]).dtype if "other" in named else named.get("dtype")
    if dtype is None:  # to another device
        return named["self"]
    kind = bool if dtype is torch.bool else float if dtype.is_floating_point else int
    return convert(machine, kind, named["self"])


def _is_constant_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex()
