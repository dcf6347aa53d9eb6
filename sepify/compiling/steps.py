"""An imported network as a list of steps, and the convolutions among them with what follows each
fused in: bias, residual, activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepify.compiling import tvm_api
from sepify.compiling.kernels.elements import FLOAT32, Element
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window, pair
from sepify.compiling.kernels.weights import Array

_RELU = (0.0, float("inf"))


@dataclass(frozen=True)
class Step:
    """`variable = operator(arguments)`."""

    variable: Any
    value: Any
    operator: str

    @property
    def arguments(self) -> list[Any]:
        """The operands, attributes among them where TVM makes them operands."""
        return list(self.value.args) if self.operator else []


class Network:
    """The steps of an imported module's `main`, and who uses what."""

    def __init__(self, module: tvm_api.Module, element: Element = FLOAT32) -> None:
        self.element = element  # of the maps that kernels compute
        self.inputs = tvm_api.parameters(module)
        self.result = tvm_api.result(module)
        self.steps = [
            Step(variable, value, tvm_api.operator(value))
            for variable, value in tvm_api.bindings(module)
        ]
        self._by_variable = {step.variable: step for step in self.steps}
        self._returned = set(_variables(self.result))
        self._claimed: set[Any] = set()

    def claim(self, step: Step) -> None:
        """Note that a kernel computes this step: no other may take it in."""
        self._claimed.add(step.variable)

    @cached_property
    def users(self) -> dict[Any, list[Step]]:
        """The steps that read a variable, one entry for each time."""
        users: dict[Any, list[Step]] = {}
        for step in self.steps:
            for variable in _variables(step.value):
                users.setdefault(variable, []).append(step)
        return users

    def used_once(self, variable: Any) -> bool:
        """Whether one step reads `variable`, once, and it is not returned."""
        return len(self.users.get(variable, [])) == 1 and variable not in self._returned

    def only_user(self, variable: Any) -> Step | None:
        """The one step that reads `variable`, once, and is free to be taken in; or None."""
        users = self.users.get(variable, [])
        if not self.used_once(variable) or users[0].variable in self._claimed:
            return None
        return users[0]

    def constant(self, expression: Any) -> NDArray[Any] | None:
        """The value of what depends on no input: a constant, or one reshaped or transposed."""
        value = tvm_api.constant(expression)
        if value is not None or not tvm_api.is_variable(expression):
            return value
        step = self._by_variable.get(expression)
        if step is None or step.operator not in ("reshape", "permute_dims"):
            return None
        source = self.constant(step.arguments[0])
        if source is None:
            return None
        if step.operator == "reshape":
            extents = tvm_api.shape(expression)
            return None if extents is None else np.reshape(source, extents)
        axes = step.value.attrs.axes
        return np.transpose(source, None if axes is None else [int(axis) for axis in axes])


@dataclass(frozen=True)
class ConvStep:
    """A convolution with everything that is fused into it; `end` is the variable it computes."""

    conv: Conv
    source: Any
    weight: Array
    bias: Array
    epilogue: Epilogue
    residual: Any | None
    end: Any
    covered: tuple[Any, ...]  # variables that are not computed on their own


@dataclass(frozen=True)
class LinearStep:
    """A fully connected layer: weight `(O, I)`."""

    source: Any
    weight: Array
    bias: Array
    clip: tuple[float, float] | None
    end: Any
    covered: tuple[Any, ...]


def read_conv(network: Network, step: Step, known: Callable[[Conv], bool]) -> ConvStep | None:
    """The convolution that begins at `step`, or None if it is none, or none that is `known`."""
    if step.operator != "nn.conv2d":
        return None
    attributes = step.value.attrs
    weight = network.constant(step.arguments[1])
    before, after = tvm_api.shape(step.arguments[0]), tvm_api.shape(step.variable)
    layouts = (str(attributes.data_layout), str(attributes.kernel_layout))
    if weight is None or before is None or after is None or layouts != ("NCHW", "OIHW"):
        return None
    top, left, bottom, right = (int(n) for n in attributes.padding)
    window = Window(
        pair(weight.shape[2:]),
        pair(attributes.strides),
        (top, left, bottom, right),
        pair(attributes.dilation),
    )
    batch, channels, height, width = before
    groups = int(attributes.groups)
    conv = Conv(batch, channels, height, width, after[1], window, after[2], after[3], groups)
    if not known(conv):
        return None
    chain = _Chain(network, step.variable)
    bias = chain.bias((1, conv.outputs, 1, 1), conv.outputs)
    residual = chain.residual(after)
    clip = chain.clip()
    epilogue = Epilogue(residual is not None, clip)
    covered = tuple(chain.covered)
    return ConvStep(conv, step.arguments[0], weight, bias, epilogue, residual, chain.end, covered)


def read_linear(network: Network, step: Step) -> LinearStep | None:
    """The fully connected layer that begins at `step`, or None."""
    if step.operator != "matmul":
        return None
    weight = network.constant(step.arguments[1])
    before, after = tvm_api.shape(step.arguments[0]), tvm_api.shape(step.variable)
    if weight is None or weight.ndim != 2 or before is None or after is None or len(before) != 2:
        return None
    chain = _Chain(network, step.variable)
    bias = chain.bias((after[1],), after[1])
    clip = chain.clip()
    covered = tuple(chain.covered)
    return LinearStep(step.arguments[0], weight.T, bias, clip, chain.end, covered)


def read_pool(step: Step) -> Conv:
    """The geometry of a pooling step that reads a map."""
    before, after = tvm_api.shape(step.arguments[0]), tvm_api.shape(step.variable)
    assert before is not None
    assert after is not None
    attributes = step.value.attrs
    top, left, bottom, right = (int(n) for n in attributes.padding)
    window = Window(
        pair(attributes.pool_size),
        pair(attributes.strides),
        (top, left, bottom, right),
        pair(attributes.dilation),
    )
    # rounding up lets the last window hang over the edge: that is padding too
    over = [
        window.span(axis, after[2 + axis]) - before[2 + axis] - window.padding[axis]
        for axis in (0, 1)
    ]
    window = replace(window, padding=(top, left, max(bottom, over[0]), max(right, over[1])))
    batch, channels, height, width = before
    return Conv(batch, channels, height, width, channels, window, after[2], after[3], channels)


def read_clip(network: Network, step: Step) -> tuple[float, float] | None:
    """The bounds of ReLU and its kin, or None."""
    if step.operator == "nn.relu":
        return _RELU
    if step.operator == "nn.relu6":
        return (0.0, 6.0)
    if step.operator == "clip":
        low, high = (tvm_api.number(argument) for argument in step.arguments[1:3])
        if low is not None and high is not None:
            return (low, high)
    return None


class _Chain:
    """Walks from a variable along its only users, taking in what a kernel can do on the way."""

    def __init__(self, network: Network, start: Any) -> None:
        self.network = network
        self.end = start
        self.covered: list[Any] = []

    def _advance(self, step: Step) -> None:
        self.network.claim(step)
        self.covered.append(self.end)
        self.end = step.variable

    def _other(self, step: Step) -> Any:
        """The operand of a binary step that is not the end of the chain."""
        first, second = step.arguments
        return second if first.same_as(self.end) else first

    def bias(self, extents: tuple[int, ...], outputs: int) -> Array:
        """The sum of the constants added that broadcast to `extents`; zeros if there are none."""
        total = np.zeros(outputs, self.network.element.name)
        while (step := self.network.only_user(self.end)) is not None and step.operator == "add":
            value = self.network.constant(self._other(step))
            if value is None or value.ndim > len(extents) or value.dtype != total.dtype:
                break
            widened = value.reshape((1,) * (len(extents) - value.ndim) + value.shape)
            if widened.shape not in (extents, (1,) * len(extents)):
                break
            total = total + np.broadcast_to(widened, extents).reshape(-1)
            self._advance(step)
        return total

    def residual(self, extents: tuple[int, ...]) -> Any | None:
        """The variable that is added next, of the same shape."""
        step = self.network.only_user(self.end)
        if step is None or step.operator != "add":
            return None
        other = self._other(step)
        if not tvm_api.is_variable(other) or tvm_api.shape(other) != extents:
            return None
        if self.network.constant(other) is not None:
            return None
        self._advance(step)
        return other

    def clip(self) -> tuple[float, float] | None:
        """The activation that comes next."""
        step = self.network.only_user(self.end)
        bounds = None if step is None else read_clip(self.network, step)
        if step is not None and bounds is not None:
            self._advance(step)
        return bounds


def _variables(expression: Any) -> list[Any]:
    """The variables that an expression reads, repeats included."""
    found: list[Any] = []

    def note(variable: Any) -> Any:
        found.append(variable)
        return variable

    tvm_api.substitute(expression, note)
    return found
