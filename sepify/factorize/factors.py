"""The two weights that stand in for one convolution, whichever solver found them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sepify.plans.forms import Order

BATCHNORM_EPS = 1e-5  # PyTorch's default, which the layers that are made here have


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
class Factors:
    """A separable convolution of rank r for a standard one with weight (N, M, kh, kw).

    dw-pw: depthwise (M*r, 1, kh, kw), pointwise (N, M*r, 1, 1), and
        W[n, m] = sum over t of pointwise[n, m*r + t] * depthwise[m*r + t]
    pw-dw: pointwise (N*r, M, 1, 1), depthwise (N, r, kh, kw), and
        W[n, m] = sum over t of pointwise[n*r + t, m] * depthwise[n, t]

    In dw-pw each input channel meets r filters (Conv2d with groups=M and depth multiplier r), and
    the bias belongs to the pointwise convolution. In pw-dw each output channel sums r filtered maps
    (Conv2d with groups=N), and the bias belongs to the depthwise one: a bias before it would meet
    zero padding at the border and be lost there.

    With something `between` the two (dw-pw only) they multiply out to no kernel.
    """

    order: Order
    rank: int
    depthwise: Tensor
    pointwise: Tensor
    bias: Tensor | None
    between: Between | None = None

    @property
    def finite(self) -> bool:
        """Whether there is neither NaN nor infinity in them."""
        between = vars(self.between).values() if self.between is not None else ()
        values = (self.depthwise, self.pointwise, self.bias, *between)
        return all(bool(v.isfinite().all()) for v in values if isinstance(v, Tensor))

    def kernel(self) -> Tensor:
        """The standard kernel (N, M, kh, kw) that these factors multiply out to."""
        kh, kw = self.depthwise.shape[2:]
        if self.order == "dw-pw":
            filters = self.depthwise.reshape(-1, self.rank, kh, kw)  # (M, r, kh, kw)
            mix = self.pointwise.reshape(len(self.pointwise), -1, self.rank)  # (N, M, r)
            return torch.einsum("nmr,mrhw->nmhw", mix, filters)
        mix = self.pointwise.reshape(-1, self.rank, self.pointwise.shape[1])  # (N, r, M)
        return torch.einsum("nrm,nrhw->nmhw", mix, self.depthwise)


def run_factors(factors: Factors, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What the separable convolution that stands in for `conv` gives for (B, M, H, W)."""
    if factors.order == "dw-pw":
        maps = run_depthwise(factors, conv, x)
        maps = maps if factors.between is None else factors.between(maps)
        return F.conv2d(maps, factors.pointwise, factors.bias)
    return _run_depthwise(factors, conv, F.conv2d(x, factors.pointwise), factors.bias)


def run_depthwise(factors: Factors, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The depthwise maps (B, M*r, H', W') of dw-pw factors, before anything else."""
    return _run_depthwise(factors, conv, x, None)


def run_factors_fast(factors: Factors, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """As `run_factors`, but for rounding. A depth multiplier above 1 makes torch's depthwise
    convolutions three to ten times slower on a CPU, forward and backward, than the kernel that the
    factors multiply out to; nor does a convolution that meets each channel r times have one."""
    if factors.rank == 1:
        return run_factors(factors, conv, x)
    if factors.between is not None:
        return run_factors(factors, conv, x.repeat_interleave(factors.rank, 1))
    output: Tensor = conv._conv_forward(x, factors.kernel(), factors.bias)
    return output


def pointwise_input(factors: Factors, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What the pointwise convolution meets in (B, M, H, W): filtered first in dw-pw, `x` itself in
    pw-dw."""
    return _run_depthwise(factors, conv, x, None) if factors.order == "dw-pw" else x


def _run_depthwise(factors: Factors, conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    groups = x.shape[1] if factors.order == "dw-pw" else conv.out_channels
    padding: str | tuple[int, ...] | int = conv.padding
    if conv.padding_mode != "zeros":
        x = F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = 0
    return F.conv2d(x, factors.depthwise, bias, conv.stride, padding, conv.dilation, groups)
