"""A kind of kernel, which is a row of the table, and a workload, which is one kernel to be made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv, Epilogue
from sepify.compiling.kernels.source import Kernel
from sepify.compiling.kernels.weights import Array

_NOTHING = Epilogue()


@dataclass(frozen=True)
class Workload:
    """A convolution or fully connected layer with all that is fused into it, whatever the knobs:
    the unit of tuning.

    A fully connected layer is a pointwise convolution of a 1x1 map. Of a separable one, `conv` is
    the depthwise part, with depth multiplier `rank` and `middle` after it, and the pointwise part
    has `outputs`. Of a pw-dw one, `conv` is the pointwise part, `middle` is what comes after it,
    and `then` the depthwise part; of a pooled one, `then` is the max pooling. The input is
    `(N, C, H, W)` unless it is `blocked`.
    """

    kind: Kind
    conv: Conv
    epilogue: Epilogue = _NOTHING
    blocked: bool = True
    rank: int = 1
    outputs: int = 0
    middle: Epilogue = _NOTHING
    then: Conv | None = None

    @property
    def second(self) -> Conv:
        """`then`, of a kind that has one."""
        assert self.then is not None
        return self.then

    @property
    def parts(self) -> tuple[Conv, ...]:
        """The convolutions that it computes, one after another."""
        return self.kind.parts(self)

    @property
    def macs(self) -> int:
        """Multiply-adds of the whole batch."""
        return sum(part.macs for part in self.parts)

    @property
    def key(self) -> str:
        """The same text for the same workload, in every process and release of the same format."""
        fields = asdict(replace(self, kind=None))  # type: ignore[arg-type]
        fields["kind"] = self.kind.recorded_as or self.kind.name
        return json.dumps(_finite(fields), sort_keys=True, separators=(",", ":"))

    def default_knobs(self, machine: Machine) -> Knobs:
        """The knobs that are expected to be good, without measuring."""
        return self.kind.knobs(self, machine)

    def kernel(self, machine: Machine, knobs: Knobs | None = None) -> Kernel:
        """The kernel; without `knobs`, the default ones."""
        return self.kind.source(self, machine, knobs or self.default_knobs(machine))

    def pack(self, machine: Machine, knobs: Knobs, *parameters: Array) -> list[Array]:
        """torch's weight and bias, of the first part and of the second if there are two, as the
        kernel with these knobs reads them."""
        return self.kind.pack(self, machine.lanes, parameters, knobs)


@dataclass(frozen=True)
class Extents:
    """What the knobs of a workload divide among register tiles and tasks.

    `default` are the default knobs of the same algorithm; `fetching` is explained at `rank_tiles`.
    """

    pixels: int  # that a register tile may span
    vectors: int  # output vectors of a group, all tasks together
    rows: int  # that strips divide
    default: Knobs
    most_splits: int = 8
    fetching: tuple[float, float] = (0.0, 0.0)


Axis = Callable[[Workload, Machine, Knobs], Iterator[Knobs]]


def _only(workload: Workload) -> tuple[Conv, ...]:
    return (workload.conv,)


def _exact(_knobs: Knobs) -> float:
    return 1.0


@dataclass(frozen=True)
class Kind:
    """All that there is to know about a kind of kernel.

    Attributes:
        name: What records call it, and people.
        knobs: The default knobs.
        source: The kernel with these knobs. Its inputs are X, the arrays of `pack`, and the
            residual if there is one.
        pack: torch's parameters, weight and bias of each part, as the kernel reads them; the
            number is the lanes of a vector.
        reference: What torch computes of x `(N, C, H, W)`, such parameters and the residual.
        axes: What the search tries, what matters most first.
        extents: What the knobs divide.
        parts: The convolutions that it computes, for its MACs, its parameters and its rounding.
        growth: How much larger rounding errors are with these knobs than those of a plain sum.
        recorded_as: What records call it where that is not its name.
    """

    name: str
    knobs: Callable[[Workload, Machine], Knobs]
    source: Callable[[Workload, Machine, Knobs], Kernel]
    pack: Callable[[Workload, int, Sequence[Array], Knobs], list[Array]]
    reference: Callable[[Workload, Tensor, Sequence[Tensor], Tensor | None], Tensor]
    axes: tuple[Axis, ...]
    extents: Callable[[Workload, Machine, Knobs], Extents]
    parts: Callable[[Workload], tuple[Conv, ...]] = _only
    growth: Callable[[Knobs], float] = _exact
    recorded_as: str = ""

    def __str__(self) -> str:
        return self.name


def _finite(value: Any) -> Any:
    """With floats as text: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return repr(value) if isinstance(value, float) else value
