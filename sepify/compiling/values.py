"""The values of a network while it is rewritten, each plain, blocked, or both.

Plain is `(N, C, H, W)`, or any other shape; blocked is `(N, C/v, H, W, v)`. The form that is
missing is made the first time that somebody asks for it, so that a network packs once where it
enters own kernels and unpacks once where it leaves them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sepify.compiling import tvm_api
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.layout import pack_kernel, unpack_kernel
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.source import Shape

Choose = Callable[[Workload], Knobs | None]  # None: the default ones


class Values:
    """New variables for those of the imported network; `choose` gives a kernel's knobs."""

    def __init__(self, builder: tvm_api.Builder, machine: Machine, choose: Choose) -> None:
        self.builder = builder
        self.machine = machine
        self._choose = choose
        self._plain: dict[Any, Any] = {}
        self._blocked: dict[Any, Any] = {}

    def knobs(self, workload: Workload) -> Knobs:
        """The knobs that were chosen for a workload, or the default ones."""
        return self._choose(workload) or workload.default_knobs(self.machine)

    def set_plain(self, variable: Any, value: Any) -> None:
        """`value` is the new `variable`, in its own shape."""
        self._plain[variable] = value

    def set_blocked(self, variable: Any, value: Any) -> None:
        """`value` is the new `variable`, blocked."""
        self._blocked[variable] = value

    def is_plain(self, variable: Any) -> bool:
        """Whether the plain form exists."""
        return variable in self._plain

    def is_blocked(self, variable: Any) -> bool:
        """Whether the blocked form exists."""
        return variable in self._blocked

    def plain(self, variable: Any) -> Any:
        """The plain form."""
        if variable not in self._plain:
            shape = tvm_api.shape(variable)
            assert shape is not None  # only maps of the kernels' elements are ever blocked
            self._plain[variable] = self._unpack(self._blocked[variable], shape)
        return self._plain[variable]

    def blocked(self, variable: Any) -> Any:
        """The blocked form of a variable `(N, C, H, W)`."""
        if variable not in self._blocked:
            shape = tvm_api.shape(variable)
            assert shape is not None
            self._blocked[variable] = self._pack(self._plain[variable], shape)
        return self._blocked[variable]

    def copy(self, expression: Any) -> Any:
        """`expression` on the plain forms."""
        return tvm_api.substitute(expression, self.plain)

    def columns(self, value: Any, batch: int, channels: int) -> Any:
        """`(N, C)` from a blocked value with one pixel, or from whole vectors `(N, C/v, v)`."""
        whole = self.machine.blocks(channels) * self.machine.lanes
        flat = self.builder.emit(tvm_api.reshape(value, (batch, whole)))
        if whole == channels:
            return flat
        return self.builder.emit(tvm_api.first_columns(flat, channels))

    def _pack(self, value: Any, shape: Shape) -> Any:
        batch, channels, height, width = shape
        if height == width == 1 and channels % self.machine.lanes == 0:
            split = (batch, self.machine.blocks(channels), 1, 1, self.machine.lanes)
            return self.builder.emit(tvm_api.reshape(value, split))
        return self.builder.call(pack_kernel(shape, self.machine), [value])

    def _unpack(self, value: Any, shape: Shape) -> Any:
        batch, channels, height, width = shape
        if height == width == 1:
            flat = self.columns(value, batch, channels)
            return self.builder.emit(tvm_api.reshape(flat, shape))
        return self.builder.call(unpack_kernel(shape, self.machine), [value])
