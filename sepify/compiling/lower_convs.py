"""Convolutions and fully connected layers -> own kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sepify.compiling import tvm_api
from sepify.compiling.kernels.dense import dense_kernel
from sepify.compiling.kernels.depthwise import depthwise_kernel
from sepify.compiling.kernels.grouped import grouped_kernel
from sepify.compiling.kernels.linear import linear_kernel
from sepify.compiling.kernels.separable import separable_kernel
from sepify.compiling.kernels.shapes import Conv, Machine
from sepify.compiling.kernels.weights import (
    pack_bias,
    pack_dense,
    pack_depthwise,
    pack_depthwise_bias,
    pack_grouped,
    pack_terms,
)
from sepify.compiling.steps import ConvStep, LinearStep, Network, read_conv, read_linear
from sepify.compiling.values import Values

_LARGEST_GATHER = 16  # channels in a group, beyond which gathering lanes costs more than it saves

Emit = Callable[[Values], None]


def has_kernel(conv: Conv, machine: Machine) -> bool:
    """Whether one of the own kernels computes `conv`."""
    return conv.groups == 1 or _whole_groups(conv, machine) or _depth(conv) <= _LARGEST_GATHER


def find_kernels(network: Network, machine: Machine) -> tuple[dict[Any, Emit], set[Any]]:
    """What to emit in the place of which variable, and the variables that need nothing."""
    convs: dict[Any, ConvStep] = {}
    emits: dict[Any, Emit] = {}
    covered: set[Any] = set()
    for step in network.steps:
        conv = read_conv(network, step, lambda conv: has_kernel(conv, machine))
        if conv is not None:
            convs[conv.end] = conv
            covered.update(conv.covered)
            continue
        linear = read_linear(network, step)
        if linear is not None:
            emits[linear.end] = _linear(linear)
            covered.update(linear.covered)
    for end, conv in convs.items():
        first = convs.get(conv.source)
        if first is not None and _separable(network, first, conv):
            emits.pop(first.end)  # it came earlier
            covered.add(first.end)
            emits[end] = _separable_conv(first, conv)
        else:
            emits[end] = _conv(conv)
    return emits, covered


def _depth(conv: Conv) -> int:
    return conv.channels // conv.groups


def _whole_groups(conv: Conv, machine: Machine) -> bool:
    """Whether channels and outputs of a group are whole vectors."""
    return _depth(conv) % machine.lanes == 0 and conv.outputs // conv.groups % machine.lanes == 0


def _separable(network: Network, first: ConvStep, second: ConvStep) -> bool:
    """Whether depthwise `first` is read by pointwise `second` and by nothing else."""
    depthwise = first.conv.groups == first.conv.channels > 1 and first.residual is None
    window = second.conv.window
    pointwise = second.conv.groups == 1 and window.area == 1 and window.stride == (1, 1)
    alone = network.used_once(first.end)
    return depthwise and pointwise and not window.padded and alone


def _conv(step: ConvStep) -> Emit:
    def emit(values: Values) -> None:
        conv, machine = step.conv, values.machine
        lanes, epilogue = machine.lanes, step.epilogue
        source, blocked = step.source, True
        if conv.groups == 1:
            # an image has fewer channels than a vector has lanes: read as it is
            blocked = not (conv.channels < lanes and values.is_plain(source))
            kernel = dense_kernel(conv, epilogue, machine, blocked=blocked)
            weight = pack_dense(step.weight, lanes, blocked=blocked)
        elif conv.groups == conv.channels == conv.outputs:
            kernel = depthwise_kernel(conv, epilogue, machine)
            weight = pack_depthwise(step.weight, 1, lanes)[0]
        elif _whole_groups(conv, machine):
            kernel = dense_kernel(conv, epilogue, machine)
            weight = pack_dense(step.weight, lanes)
        else:
            kernel = grouped_kernel(conv, epilogue, machine)
            weight = pack_grouped(step.weight, lanes)
        x = values.blocked(source) if blocked else values.plain(source)
        arguments = [x, tvm_api.literal(weight), tvm_api.literal(pack_bias(step.bias, lanes))]
        _call(values, kernel, arguments, step)

    return emit


def _separable_conv(first: ConvStep, second: ConvStep) -> Emit:
    def emit(values: Values) -> None:
        lanes = values.machine.lanes
        rank = first.conv.outputs // first.conv.channels
        kernel = separable_kernel(
            first.conv,
            rank,
            second.conv.outputs,
            first.epilogue,
            second.epilogue,
            values.machine,
        )
        weights = [
            pack_depthwise(first.weight, rank, lanes),
            pack_depthwise_bias(first.bias, rank, lanes),
            pack_terms(second.weight, rank, lanes),
            pack_bias(second.bias, lanes),
        ]
        arguments = [values.blocked(first.source), *(tvm_api.literal(w) for w in weights)]
        _call(values, kernel, arguments, second)

    return emit


def _call(values: Values, kernel: Any, arguments: list[Any], step: ConvStep) -> None:
    if step.residual is not None:
        arguments.append(values.blocked(step.residual))
    values.set_blocked(step.end, values.builder.call(kernel, arguments))


def _linear(step: LinearStep) -> Emit:
    def emit(values: Values) -> None:
        outputs, features = step.weight.shape
        shape = tvm_api.shape(step.source)
        assert shape is not None  # checked when the step was read
        machine = values.machine
        kernel = linear_kernel(shape[0], features, outputs, step.clip, machine)
        weight = pack_dense(step.weight[:, :, None, None], machine.lanes, blocked=False)
        bias = pack_bias(step.bias, machine.lanes)
        arguments = [values.plain(step.source), tvm_api.literal(weight), tvm_api.literal(bias)]
        result = values.builder.call(kernel, arguments)
        values.set_plain(step.end, values.columns(result, shape[0], outputs))

    return emit
