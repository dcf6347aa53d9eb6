"""What may stay in the blocked layout between own kernels: pooling, elementwise, joins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sepify.compiling import tvm_api
from sepify.compiling.kernels.pooling import (
    average_pool_kernel,
    global_average_kernel,
    max_pool_kernel,
)
from sepify.compiling.kernels.shapes import Conv, Window
from sepify.compiling.kernels.source import Shape
from sepify.compiling.kernels.weights import pack_bias
from sepify.compiling.steps import Network, Step, read_pool
from sepify.compiling.values import Values


def _is_map(variable: Any) -> bool:
    shape = tvm_api.shape(variable)
    return tvm_api.is_variable(variable) and shape is not None and len(shape) == 4


def _unary(_network: Network, values: Values, step: Step) -> bool:
    source = step.arguments[0]
    if not _is_map(source) or not values.is_blocked(source):
        return False
    value = tvm_api.substitute(step.value, lambda _: values.blocked(source))
    values.set_blocked(step.variable, values.builder.emit(value))
    return True


def _binary(network: Network, values: Values, step: Step) -> bool:
    extents = tvm_api.shape(step.variable)
    if extents is None or len(extents) != 4:
        return False
    maps = [argument for argument in step.arguments if _is_map(argument)]
    if not any(values.is_blocked(argument) for argument in maps):
        return False
    operands = [_operand(network, values, argument, extents) for argument in step.arguments]
    if any(operand is None for operand in operands):
        return False
    if step.operator == "divide":
        divisor = network.constant(step.arguments[1])
        if divisor is None or divisor.size != 1 or not divisor.all():
            return False  # padding lanes would become 0/0
    value = tvm_api.with_arguments(step.value, operands)
    values.set_blocked(step.variable, values.builder.emit(value))
    return True


def _operand(network: Network, values: Values, argument: Any, extents: Shape) -> Any | None:
    """`argument` in a form that broadcasts against blocked `extents`; None if there is none."""
    constant = network.constant(argument)
    channels = extents[1]
    if constant is not None:
        if constant.size == 1:
            return tvm_api.literal(constant.reshape(()))
        if constant.ndim < 3 or constant.shape[-3:] != (channels, 1, 1) or constant.size > channels:
            return None
        packed = pack_bias(constant.reshape(-1), values.machine.lanes)
        return tvm_api.literal(packed.reshape(1, -1, 1, 1, values.machine.lanes))
    shape = tvm_api.shape(argument)
    if not _is_map(argument) or shape is None:
        return None
    if shape[1] == channels:
        return values.blocked(argument)
    if shape[1] == 1:  # one value for all channels of a pixel
        return values.builder.emit(tvm_api.reshape(values.plain(argument), (*shape, 1)))
    return None


def _pool(_network: Network, values: Values, step: Step) -> bool:
    source = step.arguments[0]
    if not _is_map(source) or not values.is_blocked(source):
        return False
    conv = read_pool(step)
    if step.operator == "nn.max_pool2d":
        kernel = max_pool_kernel(conv, values.machine)
    else:
        attributes = step.value.attrs
        whole = bool(attributes.count_include_pad) and not bool(attributes.ceil_mode)
        if conv.window.padded and not whole:
            return False  # windows at the edge would count fewer elements
        kernel = average_pool_kernel(conv, values.machine)
    result = values.builder.call(kernel, [values.blocked(source)])
    values.set_blocked(step.variable, result)
    return True


def _global_average(_network: Network, values: Values, step: Step) -> bool:
    source = step.arguments[0]
    if not _is_map(source) or not values.is_blocked(source):
        return False
    shape, attributes = tvm_api.shape(source), step.value.attrs
    assert shape is not None  # a map has one
    keep = True
    if step.operator == "mean":
        if attributes.axis is None or sorted(int(axis) % 4 for axis in attributes.axis) != [2, 3]:
            return False
        keep = bool(attributes.keepdims)
    elif [int(n) for n in attributes.output_size] != [1, 1]:
        return False
    batch, channels, height, width = shape
    conv = Conv(batch, channels, height, width, channels, Window((height, width)), 1, 1, channels)
    kernel = global_average_kernel(conv, values.machine)
    result = values.builder.call(kernel, [values.blocked(source)])
    if keep:
        values.set_blocked(step.variable, result)
    else:
        values.set_plain(step.variable, values.columns(result, batch, channels))
    return True


def _concat(_network: Network, values: Values, step: Step) -> bool:
    parts = tvm_api.fields(step.arguments[0])
    if parts is None or step.value.attrs.axis is None or not all(_is_map(part) for part in parts):
        return False
    shapes = [tvm_api.shape(part) for part in parts]
    whole = all(shape is not None and shape[1] % values.machine.lanes == 0 for shape in shapes)
    if int(step.value.attrs.axis) % 4 != 1 or not whole:
        return False
    if not any(values.is_blocked(part) for part in parts):
        return False
    joined = tvm_api.concatenate([values.blocked(part) for part in parts])
    values.set_blocked(step.variable, values.builder.emit(joined))
    return True


def _flatten(_network: Network, values: Values, step: Step) -> bool:
    """`(N, C, 1, 1)` -> `(N, C)`: no need to unpack first."""
    source = step.arguments[0]
    before, after = tvm_api.shape(source), tvm_api.shape(step.variable)
    if not _is_map(source) or not values.is_blocked(source) or before is None:
        return False
    if before[2:] != (1, 1) or after != before[:2]:
        return False
    result = values.columns(values.blocked(source), before[0], before[1])
    values.set_plain(step.variable, result)
    return True


# by operator: what it is in the blocked layout
_LOWERINGS: dict[str, Callable[[Network, Values, Step], bool]] = {
    # finite at zero, which is what the padding lanes of a blocked value hold or may be turned into
    "abs": _unary,
    "clip": _unary,
    "negative": _unary,
    "nn.gelu": _unary,
    "nn.gelu_tanh": _unary,
    "nn.leakyrelu": _unary,
    "nn.relu": _unary,
    "nn.relu6": _unary,
    "nn.silu": _unary,
    "nn.softplus": _unary,
    "sigmoid": _unary,
    "tanh": _unary,
    "add": _binary,
    "subtract": _binary,
    "multiply": _binary,
    "maximum": _binary,
    "minimum": _binary,
    "divide": _binary,  # by a constant alone, or the padding lanes would become 0/0
    "nn.max_pool2d": _pool,
    "nn.avg_pool2d": _pool,
    "mean": _global_average,
    "nn.adaptive_avg_pool2d": _global_average,
    "concat": _concat,
    "reshape": _flatten,
}


def lower_other(network: Network, values: Values, step: Step) -> bool:
    """Write `step` in the blocked layout; False if it cannot be, or nothing of it is blocked."""
    lower = _LOWERINGS.get(step.operator)
    return lower is not None and lower(network, values, step)
