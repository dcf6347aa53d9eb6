"""One kernel to be made, whatever its knobs: the unit of tuning and the key of its records."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from sepify.compiling.kernels.dense import dense_kernel, dense_knobs
from sepify.compiling.kernels.depthwise import depthwise_kernel, plane_knobs
from sepify.compiling.kernels.grouped import grouped_kernel, grouped_knobs
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.linear import linear_kernel, linear_knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.pooled import pooled_kernel, pooled_knobs
from sepify.compiling.kernels.pw_dw import pw_dw_kernel, pw_dw_knobs
from sepify.compiling.kernels.separable import separable_kernel, separable_knobs
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window, pair
from sepify.compiling.kernels.source import Kernel
from sepify.compiling.kernels.weights import (
    Array,
    pack_bias,
    pack_dense,
    pack_depthwise,
    pack_depthwise_bias,
    pack_grouped,
    pack_term_outputs,
    pack_terms,
    pack_winograd,
)
from sepify.compiling.kernels.winograd import (
    best_tile,
    can_winograd,
    winograd_kernel,
    winograd_knobs,
)

KINDS = ("dense", "depthwise", "grouped", "linear", "pw-dw", "separable")
_NOTHING = Epilogue()


@dataclass(frozen=True)
class Workload:
    """A convolution or fully connected layer with all that is fused into it.

    `kind` is one of KINDS. A fully connected layer is a pointwise convolution of a 1x1 map. Of a
    separable one, `conv` is the depthwise part, with depth multiplier `rank` and `middle` after it,
    and the pointwise part has `outputs`. Of a pw-dw one, `conv` is the pointwise part, `middle` is
    what comes after it, and `then` the depthwise part. A dense one reads `(N, C, H, W)` unless
    `blocked`, and may have a max pooling, `then`, after it.
    """

    kind: str
    conv: Conv
    epilogue: Epilogue = _NOTHING
    blocked: bool = True
    rank: int = 1
    outputs: int = 0
    middle: Epilogue = _NOTHING
    then: Conv | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole batch."""
        conv = self.conv
        if self.kind == "pw-dw":
            return conv.macs + self.spread.macs
        if self.kind != "separable":
            return conv.macs
        each = self.rank * conv.channels * (conv.window.area + self.outputs)
        return conv.batch * conv.pixels * each

    @property
    def spread(self) -> Conv:
        """The depthwise part of a pw-dw one."""
        assert self.then is not None
        return self.then

    @property
    def key(self) -> str:
        """The same text for the same workload, in every process and release of the same format."""
        return json.dumps(_finite(asdict(self)), sort_keys=True, separators=(",", ":"))

    @property
    def can_winograd(self) -> bool:
        """Whether Winograd's algorithm computes it."""
        return self.kind == "dense" and self.blocked and can_winograd(self.conv)

    def default_knobs(self, machine: Machine) -> Knobs:
        """The knobs that are expected to be good, without measuring."""
        conv = self.conv
        if self.kind == "separable":
            return separable_knobs(conv, self.rank, self.outputs, machine)
        if self.kind == "pw-dw":
            return pw_dw_knobs(conv, self.spread, machine)
        if self.kind == "dense":
            return self.knobs_for(best_tile(conv, machine) if self.can_winograd else 0, machine)
        if self.kind == "linear":
            return linear_knobs(conv.batch, conv.channels, conv.outputs, machine)
        return (plane_knobs if self.kind == "depthwise" else grouped_knobs)(conv, machine)

    def knobs_for(self, winograd: int, machine: Machine) -> Knobs:
        """Of a dense one, the best ones known with that algorithm; of any other the default."""
        if self.kind != "dense":
            return self.default_knobs(machine)
        if self.then is not None:
            return pooled_knobs(self.conv, self.then, machine)
        if winograd:
            return winograd_knobs(self.conv, winograd, machine)
        return dense_knobs(self.conv, machine, blocked=self.blocked)

    def kernel(self, machine: Machine, knobs: Knobs | None = None) -> Kernel:
        """The kernel; without `knobs`, the default ones."""
        conv, epilogue = self.conv, self.epilogue
        if self.kind == "separable":
            return separable_kernel(
                conv, self.rank, self.outputs, self.middle, epilogue, machine, knobs
            )
        if self.kind == "pw-dw":
            knobs = knobs or self.default_knobs(machine)
            return pw_dw_kernel(conv, self.spread, self.middle, epilogue, machine, knobs)
        if self.kind == "dense":
            knobs = knobs or self.default_knobs(machine)
            if self.then is not None:
                return pooled_kernel(conv, self.then, epilogue, machine, knobs)
            if knobs.winograd:
                return winograd_kernel(conv, epilogue, machine, knobs)
            return dense_kernel(conv, epilogue, machine, blocked=self.blocked, knobs=knobs)
        if self.kind == "linear":
            return linear_kernel(
                conv.batch, conv.channels, conv.outputs, epilogue.clip, machine, knobs
            )
        make = depthwise_kernel if self.kind == "depthwise" else grouped_kernel
        return make(conv, epilogue, machine, knobs)

    def pack(self, lanes: int, *parameters: Array, winograd: int = 0) -> list[Array]:
        """torch's weight and bias, of the first part and of the second if there are two, as the
        kernel reads them whose knobs say so much of `winograd`."""
        if self.kind == "separable":
            filters, shifts, weight, bias = parameters
            return [
                pack_depthwise(filters, self.rank, lanes),
                pack_depthwise_bias(shifts, self.rank, lanes),
                pack_terms(weight, self.rank, lanes),
                pack_bias(bias, lanes),
            ]
        if self.kind == "pw-dw":
            weight, bias, filters, shifts = parameters
            rank = self.spread.channels // self.spread.groups
            return [
                *pack_term_outputs(weight, bias, rank, lanes),
                pack_depthwise(filters.reshape(-1, 1, *filters.shape[2:]), rank, lanes),
                pack_bias(shifts, lanes),
            ]
        weight, bias = parameters
        if self.kind == "depthwise":
            packed = pack_depthwise(weight, 1, lanes)[0]
        elif self.kind == "grouped":
            packed = pack_grouped(weight, lanes)
        elif winograd:
            packed = pack_winograd(weight, lanes, winograd)
        else:
            packed = pack_dense(weight, lanes, blocked=self.blocked)
        return [packed, pack_bias(bias, lanes)]


def read_workload(value: dict[str, Any]) -> Workload:
    """A workload from what `key` holds. Raises KeyError, TypeError or ValueError if it is none."""
    if value["kind"] not in KINDS:
        raise ValueError(f"no kind of kernel: {value['kind']}")
    then = value["then"]
    return Workload(
        kind=value["kind"],
        conv=_read_conv(value["conv"]),
        epilogue=_read_epilogue(value["epilogue"]),
        blocked=bool(value["blocked"]),
        rank=int(value["rank"]),
        outputs=int(value["outputs"]),
        middle=_read_epilogue(value["middle"]),
        then=None if then is None else _read_conv(then),
    )


def _read_conv(value: dict[str, Any]) -> Conv:
    extents = {name: int(extent) for name, extent in value.items() if name != "window"}
    window = value["window"]
    top, left, bottom, right = (int(n) for n in window["padding"])
    read = Window(
        pair(window["kernel"]),
        pair(window["stride"]),
        (top, left, bottom, right),
        pair(window["dilation"]),
    )
    return Conv(**extents, window=read)


def _read_epilogue(value: dict[str, Any]) -> Epilogue:
    clip = value["clip"]
    bounds = None if clip is None else (float(clip[0]), float(clip[1]))
    return Epilogue(bool(value["residual"]), bounds)


def _finite(value: Any) -> Any:
    """With floats as text: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return repr(value) if isinstance(value, float) else value
