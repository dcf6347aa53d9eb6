"""The weights that stand in for one convolution, whichever solver found them.

Every form's factors are a chain of smaller convolutions, its parts, whose product is a standard
kernel. What runs, trains, writes and judges factors looks at the parts; only a form's own solver
knows its fields.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sepify.plans.form import window_of
from sepify.plans.forms import Order

BATCHNORM_EPS = 1e-5  # PyTorch's default, which the layers that are made here have
BOTH_AXES = (0, 1)
MANY_CHANNELS = 64  # from here on a chain with a depthwise part runs faster than its product

AnyFactors = TypeVar("AnyFactors", bound="Factors")


@dataclass(frozen=True)
class Part:
    """One convolution of a chain: its `weight` is the field `role` of the factors, (out channels,
    in channels / groups, kh, kw); it has the stride, padding and dilation of the standard
    convolution along `axes` (0 is down, 1 across)."""

    role: str
    weight: Tensor
    groups: int = 1
    axes: tuple[int, ...] = ()

    def stand_in(self, conv: nn.Conv2d, *, bias: bool = False) -> nn.Conv2d:
        """A Conv2d of the part's shape whose weights are about to be replaced: it takes no memory
        and draws no random numbers."""
        outs, ins = self.weight.shape[0], self.weight.shape[1] * self.groups
        window = window_of(conv, self.axes)
        return nn.Conv2d(ins, outs, groups=self.groups, bias=bias, device="meta", **window)

    def run(self, conv: nn.Conv2d, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> what the part makes of it in the place of `conv`."""
        window = window_of(conv, self.axes)
        padding = window["padding"]
        if window["padding_mode"] != "zeros":
            sides = self.stand_in(conv)._reversed_padding_repeated_twice
            x = F.pad(x, sides, mode=window["padding_mode"])
            padding = 0
        return F.conv2d(
            x, self.weight, bias, window["stride"], padding, window["dilation"], self.groups
        )


@dataclass(frozen=True)
class Factors(ABC):
    """A chain of convolutions for a standard one with weight (N, M, kh, kw); `bias`, (N,), belongs
    to the last: one before it would meet zero padding at the border and be lost there."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The convolutions of the chain, in execution order."""

    @abstractmethod
    def kernel(self) -> Tensor:
        """The standard kernel (N, M, kh, kw) that the chain multiplies out to."""

    if TYPE_CHECKING:  # as properties they would be taken for the defaults of fields

        @property
        def bias(self) -> Tensor | None:
            """The bias of the last part, (N,)."""

        @property
        def between(self) -> Between | None:
            """What stands between the first part and the second: with it, the chain multiplies out
            to no kernel."""

    else:
        between = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights of the parts by role."""
        return {part.role: part.weight for part in self.parts}

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.parts[0].weight.dtype

    @property
    def params(self) -> int:
        """Values in the weights and the bias."""
        bias = 0 if self.bias is None else self.bias.numel()
        return bias + sum(part.weight.numel() for part in self.parts)

    @property
    def finite(self) -> bool:
        """Whether there is neither NaN nor infinity in them."""
        between = vars(self.between).values() if self.between is not None else ()
        values = (*self.weights.values(), self.bias, *between)
        return all(bool(v.isfinite().all()) for v in values if isinstance(v, Tensor))


def with_weights(factors: AnyFactors, weights: dict[str, Tensor], **others: Any) -> AnyFactors:
    """`factors` with other weights for some roles, of any shape with as many values."""
    old = factors.weights
    shaped = {role: weight.reshape(old[role].shape) for role, weight in weights.items()}
    return replace(factors, **shaped, **others)


def as_type(factors: AnyFactors, dtype: torch.dtype) -> AnyFactors:
    """`factors` in another type."""
    bias = None if factors.bias is None else factors.bias.to(dtype)
    moved = {role: weight.to(dtype) for role, weight in factors.weights.items()}
    return with_weights(factors, moved, bias=bias)


@dataclass(frozen=True)
class Between:
    """BatchNorm and ReLU between depthwise and pointwise, as in a MobileNet block: of a depthwise
    map z, min(max(weight * (z - mean) / sqrt(variance + eps) + bias, 0), ceiling).

    `mean` and `variance` are those of z, one a channel, as are `weight` and `bias`; the ceiling is
    infinity for ReLU and 6 for ReLU6.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor
    bias: Tensor
    ceiling: float

    def __call__(self, z: Tensor) -> Tensor:
        """(B, M*r, H, W) -> the same."""
        scale = self.scale.to(z.dtype)
        shift = (self.bias - self.mean * self.scale).to(z.dtype)
        return (z * scale[:, None, None] + shift[:, None, None]).clamp(0, self.ceiling)

    @property
    def scale(self) -> Tensor:
        """What z is multiplied by, (M*r,)."""
        return self.weight / (self.variance + BATCHNORM_EPS).sqrt()


@dataclass(frozen=True)
class SeparableFactors(Factors):
    """Depthwise and pointwise weights of rank r, in either order.

    dw-pw: depthwise (M*r, 1, kh, kw), pointwise (N, M*r, 1, 1), and
        W[n, m] = sum over t of pointwise[n, m*r + t] * depthwise[m*r + t]
    pw-dw: pointwise (N*r, M, 1, 1), depthwise (N, r, kh, kw), and
        W[n, m] = sum over t of pointwise[n*r + t, m] * depthwise[n, t]

    In dw-pw each input channel meets r filters (Conv2d with groups=M and depth multiplier r); in
    pw-dw each output channel sums r filtered maps (Conv2d with groups=N). Only dw-pw can have
    something `between` the two.
    """

    order: Order
    rank: int
    depthwise: Tensor
    pointwise: Tensor
    bias: Tensor | None
    between: Between | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Depthwise and pointwise, in the factors' order."""
        channels = len(self.depthwise)
        groups = channels // self.rank if self.order == "dw-pw" else channels
        depthwise = Part("depthwise", self.depthwise, groups, BOTH_AXES)
        pointwise = Part("pointwise", self.pointwise)
        return (depthwise, pointwise) if self.order == "dw-pw" else (pointwise, depthwise)

    def kernel(self) -> Tensor:
        """As in the formulas above."""
        kh, kw = self.depthwise.shape[2:]
        if self.order == "dw-pw":
            filters = self.depthwise.reshape(-1, self.rank, kh, kw)  # (M, r, kh, kw)
            mix = self.pointwise.reshape(len(self.pointwise), -1, self.rank)  # (N, M, r)
            return torch.einsum("nmr,mrhw->nmhw", mix, filters)
        mix = self.pointwise.reshape(-1, self.rank, self.pointwise.shape[1])  # (N, r, M)
        return torch.einsum("nrm,nrhw->nmhw", mix, self.depthwise)


@dataclass(frozen=True)
class BottleneckFactors(Factors):
    """reduce (R, M, 1, 1), depthwise (R, 1, kh, kw), expand (N, R, 1, 1):

    W[n, m] = sum over t of expand[n, t] * reduce[t, m] * depthwise[t]

    which is CP of the kernel with one spatial mode (Lebedev et al. 2015, equation 5).
    """

    reduce: Tensor
    depthwise: Tensor
    expand: Tensor
    bias: Tensor | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Pointwise, depthwise, pointwise."""
        return (
            Part("reduce", self.reduce),
            Part("depthwise", self.depthwise, len(self.depthwise), BOTH_AXES),
            Part("expand", self.expand),
        )

    def kernel(self) -> Tensor:
        """As in the formula above."""
        rows = self.reduce * self.depthwise  # (R, M, kh, kw)
        return torch.einsum("nt,tmhw->nmhw", self.expand[:, :, 0, 0], rows)


@dataclass(frozen=True)
class LowRankFactors(Factors):
    """reduce (R, M, kh, kw) with the window, and expand (N, R, 1, 1): W = expand reduce."""

    reduce: Tensor
    expand: Tensor
    bias: Tensor | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The two, the first with the window."""
        return Part("reduce", self.reduce, axes=BOTH_AXES), Part("expand", self.expand)

    def kernel(self) -> Tensor:
        """As in the formula above."""
        return torch.einsum("nt,tmhw->nmhw", self.expand[:, :, 0, 0], self.reduce)


@dataclass(frozen=True)
class SpatialFactors(Factors):
    """vertical (R, M, kh, 1) and horizontal (N, R, 1, kw) (Jaderberg et al. 2014, section 2.2):

    W[n, m, i, j] = sum over t of horizontal[n, t, 0, j] * vertical[t, m, i, 0]
    """

    vertical: Tensor
    horizontal: Tensor
    bias: Tensor | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The column first, then the row."""
        return (
            Part("vertical", self.vertical, axes=(0,)),
            Part("horizontal", self.horizontal, axes=(1,)),
        )

    def kernel(self) -> Tensor:
        """As in the formula above."""
        return torch.einsum("ntj,tmi->nmij", self.horizontal[:, :, 0, :], self.vertical[:, :, :, 0])


def run_factors(factors: Factors, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What the chain that stands in for `conv` gives for (B, M, H, W)."""
    *firsts, last = factors.parts
    for number, part in enumerate(firsts):
        x = part.run(conv, x)
        if number == 0 and factors.between is not None:
            x = factors.between(x)
    return last.run(conv, x, factors.bias)


def part_inputs(factors: Factors, conv: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """What each part meets where the chain meets (B, M, H, W)."""
    met = [x]
    for number, part in enumerate(factors.parts[:-1]):
        x = part.run(conv, x)
        x = factors.between(x) if number == 0 and factors.between is not None else x
        met.append(x)
    return met


def run_factors_fast(factors: Factors, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """As `run_factors`, but for rounding. With a depth multiplier above 1, torch's depthwise
    convolutions are three to ten times as slow on a CPU, forward and backward, as the kernel that
    the factors multiply out to; so are chains of few channels."""
    if isinstance(factors, SeparableFactors):
        if factors.between is not None:
            repeated = x.repeat_interleave(factors.rank, 1)
            return run_factors(replace(factors, rank=1), conv, repeated)
        chain = factors.rank == 1
    else:
        chain = conv.kernel_size == (1, 1) or conv.in_channels >= MANY_CHANNELS
    if chain:
        return run_factors(factors, conv, x)
    output: Tensor = conv._conv_forward(x, factors.kernel(), factors.bias)
    return output
