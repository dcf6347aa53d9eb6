"""Convolutions and fully connected layers -> own kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sepify.compiling import tvm_api
from sepify.compiling.kernels.carried import can_carry
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.weights import Array
from sepify.compiling.kernels.workload import Workload
from sepify.compiling.steps import (
    ConvStep,
    LinearStep,
    Network,
    Step,
    read_conv,
    read_linear,
    read_pool,
)
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
    for step in network.steps:
        stem = convs.get(step.arguments[0]) if step.operator == "nn.max_pool2d" else None
        if stem is not None and _poolable(network, stem, step, machine):
            del convs[stem.end]
            covered.add(stem.end)
            emits[step.variable] = _pooled_conv(stem, step)
    taken: set[Any] = set()
    for fits, join in ((_separable, _separable_conv), (_pw_dw, _pw_dw_conv)):
        for end, conv in convs.items():
            first = convs.get(conv.source)
            if first is None or {first.end, end} & taken:
                continue
            if fits(network, first, conv, machine):
                taken |= {first.end, end}
                covered.add(first.end)
                emits[end] = join(first, conv)
    emits |= {end: _conv(conv) for end, conv in convs.items() if end not in taken}
    return emits, covered


def _depth(conv: Conv) -> int:
    return conv.channels // conv.groups


def _whole_groups(conv: Conv, machine: Machine) -> bool:
    """Whether channels and outputs of a group are whole vectors."""
    return _depth(conv) % machine.lanes == 0 and conv.outputs // conv.groups % machine.lanes == 0


def _separable(network: Network, first: ConvStep, second: ConvStep, _machine: Machine) -> bool:
    """Whether depthwise `first` is read by pointwise `second` and by nothing else."""
    depthwise = first.conv.groups == first.conv.channels > 1 and first.residual is None
    return depthwise and _is_pointwise(second.conv) and network.used_once(first.end)


def _pw_dw(network: Network, first: ConvStep, second: ConvStep, machine: Machine) -> bool:
    """Whether pointwise `first` is read by `second`, one group an output, and by nothing else."""
    conv = second.conv
    depthwise = conv.groups == conv.outputs > 1 and _depth(conv) <= _LARGEST_GATHER
    pointwise = _is_pointwise(first.conv) and first.conv.channels >= machine.lanes
    alone = network.used_once(first.end) and first.residual is None
    return depthwise and pointwise and alone and can_carry(conv)


def _is_pointwise(conv: Conv) -> bool:
    window = conv.window
    return conv.groups == 1 and window.area == 1 and window.stride == (1, 1) and not window.padded


def _poolable(network: Network, stem: ConvStep, pool: Step, machine: Machine) -> bool:
    """Whether convolution `stem` reads an input as it is, and max pooling `pool` alone reads it."""
    image = stem.source in network.inputs and stem.conv.channels < machine.lanes
    alone = network.used_once(stem.end) and stem.residual is None and stem.conv.groups == 1
    return image and alone and can_carry(read_pool(pool))


def _pooled_conv(stem: ConvStep, pool: Step) -> Emit:
    def emit(values: Values) -> None:
        workload = Workload("dense", stem.conv, stem.epilogue, blocked=False, then=read_pool(pool))
        pooled = replace(stem, end=pool.variable)
        _call(values, workload, stem.source, (stem.weight, stem.bias), pooled)

    return emit


def _conv(step: ConvStep) -> Emit:
    def emit(values: Values) -> None:
        conv, machine = step.conv, values.machine
        kind, blocked = "dense", True
        if conv.groups == 1:
            # an image has fewer channels than a vector has lanes: read as it is
            blocked = not (conv.channels < machine.lanes and values.is_plain(step.source))
        elif conv.groups == conv.channels == conv.outputs:
            kind = "depthwise"
        elif not _whole_groups(conv, machine):
            kind = "grouped"
        workload = Workload(kind, conv, step.epilogue, blocked)
        _call(values, workload, step.source, (step.weight, step.bias), step)

    return emit


def _separable_conv(first: ConvStep, second: ConvStep) -> Emit:
    def emit(values: Values) -> None:
        rank = first.conv.outputs // first.conv.channels
        workload = Workload(
            "separable",
            first.conv,
            second.epilogue,
            rank=rank,
            outputs=second.conv.outputs,
            middle=first.epilogue,
        )
        parameters = (first.weight, first.bias, second.weight, second.bias)
        _call(values, workload, first.source, parameters, second)

    return emit


def _pw_dw_conv(first: ConvStep, second: ConvStep) -> Emit:
    def emit(values: Values) -> None:
        workload = Workload(
            "pw-dw", first.conv, second.epilogue, middle=first.epilogue, then=second.conv
        )
        parameters = (first.weight, first.bias, second.weight, second.bias)
        _call(values, workload, first.source, parameters, second)

    return emit


def _call(
    values: Values, workload: Workload, source: Any, parameters: tuple[Array, ...], step: ConvStep
) -> None:
    x = values.blocked(source) if workload.blocked else values.plain(source)
    machine, knobs = values.machine, values.knobs(workload)
    packed = workload.pack(machine.lanes, *parameters, winograd=knobs.winograd)
    arguments = [x, *(tvm_api.literal(array) for array in packed)]
    if step.residual is not None:
        arguments.append(values.blocked(step.residual))
    result = values.builder.call(workload.kernel(machine, knobs), arguments)
    values.set_blocked(step.end, result)


def _linear(step: LinearStep) -> Emit:
    def emit(values: Values) -> None:
        outputs, features = step.weight.shape
        shape = tvm_api.shape(step.source)
        assert shape is not None  # checked when the step was read
        conv = Conv(shape[0], features, 1, 1, outputs, Window((1, 1)), 1, 1)
        workload = Workload("linear", conv, Epilogue(clip=step.clip), blocked=False)
        packed = workload.pack(values.machine.lanes, step.weight[:, :, None, None], step.bias)
        arguments = [values.plain(step.source), *(tvm_api.literal(array) for array in packed)]
        kernel = workload.kernel(values.machine, values.knobs(workload))
        result = values.builder.call(kernel, arguments)
        values.set_plain(step.end, values.columns(result, shape[0], outputs))

    return emit
