"""Convolutions and fully connected layers -> own kernels.

Which kernel computes what is said by two ordered tables: FUSIONS, of a convolution and the step
after it, and SINGLES, of a convolution alone. The first row that fits is the one that is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sepify.compiling import tvm_api
from sepify.compiling.kernels.carried import can_carry
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.depthwise import DEPTHWISE
from sepify.compiling.kernels.grouped import GROUPED
from sepify.compiling.kernels.kind import Kind, Workload
from sepify.compiling.kernels.linear import LINEAR
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.pooled import POOLED
from sepify.compiling.kernels.pw_dw import PW_DW
from sepify.compiling.kernels.separable import SEPARABLE
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.weights import Array
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


@dataclass(frozen=True)
class Site:
    """A convolution that nothing but the next step reads, and that step: another convolution with
    what is fused into it, or a step that is none."""

    network: Network
    machine: Machine
    first: ConvStep
    next: Step
    second: ConvStep | None


@dataclass(frozen=True)
class Fusion:
    """One kernel for two steps: `workload` where the kernel computes them, or None; `reason` says
    why the row stands where it does."""

    reason: str
    workload: Callable[[Site], Workload | None]


@dataclass(frozen=True)
class Single:
    """A kernel for one convolution, where it `fits`. An input that is not `blocked` is read as it
    is, if it has not been blocked for another step."""

    kind: Kind
    reason: str
    fits: Callable[[Conv, Machine], bool]
    blocked: bool = True


def _pooled(site: Site) -> Workload | None:
    """An input of the network, read as it is, and the max pooling of what it gives."""
    stem = site.first
    image = stem.source in site.network.inputs and stem.conv.channels < site.machine.lanes
    if site.next.operator != "nn.max_pool2d" or not image or stem.conv.groups != 1:
        return None
    pool = read_pool(site.next)
    if not can_carry(pool):
        return None
    return Workload(POOLED, stem.conv, stem.epilogue, blocked=False, then=pool)


def _separable(site: Site) -> Workload | None:
    """Depthwise, and the pointwise that reads it."""
    first, second = site.first, site.second
    if second is None or not _is_pointwise(second.conv):
        return None
    if not first.conv.groups == first.conv.channels > 1:
        return None
    return Workload(
        SEPARABLE,
        first.conv,
        second.epilogue,
        rank=first.conv.outputs // first.conv.channels,
        outputs=second.conv.outputs,
        middle=first.epilogue,
    )


def _pw_dw(site: Site) -> Workload | None:
    """Pointwise, and what reads it, one group an output."""
    first, second = site.first, site.second
    if second is None or not can_carry(second.conv):
        return None
    depthwise = second.conv.groups == second.conv.outputs > 1
    if not depthwise or _depth(second.conv) > _LARGEST_GATHER:
        return None
    if not _is_pointwise(first.conv) or first.conv.channels < site.machine.lanes:
        return None
    return Workload(PW_DW, first.conv, second.epilogue, middle=first.epilogue, then=second.conv)


FUSIONS = (
    Fusion(
        "first, as it spares most: the largest map of most networks is never written",
        _pooled,
    ),
    Fusion(
        "before pw-dw, which in a chain of dw-pw blocks would join each pointwise to the depthwise "
        "of the next block, and leave the first depthwise and the last pointwise alone",
        _separable,
    ),
    Fusion("last: what is left of such chains, and networks made of pw-dw blocks", _pw_dw),
)

SINGLES = (
    Single(
        DENSE,
        "an image has fewer channels than a vector has lanes: blocking it would only add zeros",
        lambda conv, machine: conv.groups == 1 and conv.channels < machine.lanes,
        blocked=False,
    ),
    Single(
        DEPTHWISE,
        "before grouped, which gathers the lanes that depthwise finds in their place",
        lambda conv, _machine: 1 < conv.groups == conv.channels == conv.outputs,
    ),
    Single(
        DENSE,
        "before grouped: groups of whole vectors need no gathering",
        lambda conv, machine: conv.groups == 1 or _whole_groups(conv, machine),
    ),
    Single(
        GROUPED,
        "the rest, as long as gathering pays; beyond that TVM computes the convolution",
        lambda conv, _machine: _depth(conv) <= _LARGEST_GATHER,
    ),
)


def has_kernel(conv: Conv, machine: Machine) -> bool:
    """Whether one of the own kernels computes `conv`."""
    return any(row.fits(conv, machine) for row in SINGLES)


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
    by_source = {conv.source: conv for conv in convs.values()}
    taken: set[Any] = set()
    for row in FUSIONS:
        for end, first in convs.items():
            if end in taken or first.residual is not None or not network.used_once(end):
                continue
            second = by_source.get(end)
            if second is not None and second.end in taken:
                continue
            site = Site(network, machine, first, network.users[end][0], second)
            workload = row.workload(site)
            if workload is not None:
                last = site.next.variable if second is None else second.end
                taken |= {end, last}
                covered.add(end)
                emits[last] = _fused(workload, first, second, last)
    emits |= {end: _conv(conv) for end, conv in convs.items() if end not in taken}
    return emits, covered


def _depth(conv: Conv) -> int:
    return conv.channels // conv.groups


def _whole_groups(conv: Conv, machine: Machine) -> bool:
    """Whether channels and outputs of a group are whole vectors."""
    return _depth(conv) % machine.lanes == 0 and conv.outputs // conv.groups % machine.lanes == 0


def _is_pointwise(conv: Conv) -> bool:
    window = conv.window
    return conv.groups == 1 and window.area == 1 and window.stride == (1, 1) and not window.padded


def _fused(workload: Workload, first: ConvStep, second: ConvStep | None, last: Any) -> Emit:
    parameters: tuple[Array, ...] = (first.weight, first.bias)
    if second is not None:
        parameters += (second.weight, second.bias)
    residual = None if second is None else second.residual

    def emit(values: Values) -> None:
        _call(values, workload, first.source, parameters, residual, last)

    return emit


def _conv(step: ConvStep) -> Emit:
    def emit(values: Values) -> None:
        conv = step.conv
        row = next(
            row
            for row in SINGLES
            if row.fits(conv, values.machine) and (row.blocked or values.is_plain(step.source))
        )
        workload = Workload(row.kind, conv, step.epilogue, row.blocked)
        _call(values, workload, step.source, (step.weight, step.bias), step.residual, step.end)

    return emit


def _call(
    values: Values,
    workload: Workload,
    source: Any,
    parameters: tuple[Array, ...],
    residual: Any | None,
    end: Any,
) -> None:
    x = values.blocked(source) if workload.blocked else values.plain(source)
    machine, knobs = values.machine, values.knobs(workload)
    packed = workload.pack(machine, knobs, *parameters)
    arguments = [x, *(tvm_api.literal(array) for array in packed)]
    if residual is not None:
        arguments.append(values.blocked(residual))
    result = values.builder.call(workload.kernel(machine, knobs), arguments)
    values.set_blocked(end, result)


def _linear(step: LinearStep) -> Emit:
    def emit(values: Values) -> None:
        outputs, features = step.weight.shape
        shape = tvm_api.shape(step.source)
        assert shape is not None  # checked when the step was read
        conv = Conv(shape[0], features, 1, 1, outputs, Window((1, 1)), 1, 1)
        workload = Workload(LINEAR, conv, Epilogue(clip=step.clip), blocked=False)
        machine, knobs = values.machine, values.knobs(workload)
        packed = workload.pack(machine, knobs, step.weight[:, :, None, None], step.bias)
        arguments = [values.plain(step.source), *(tvm_api.literal(array) for array in packed)]
        result = values.builder.call(workload.kernel(machine, knobs), arguments)
        values.set_plain(step.end, values.columns(result, shape[0], outputs))

    return emit
