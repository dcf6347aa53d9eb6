"""Forms of two or three convolutions through `channels` middle channels, all linear."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from torch import nn

from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.plans.costs import Cost
from sepify.plans.form import Form, Kernel, window_of
from sepify.plans.styles import Style

Pixels = Fraction | int
Size = tuple[int, Pixels, Pixels]
FINER = 2.0  # from one candidate of a ladder to the next
STEPS = 6  # of a ladder
# Candidates of more channels than twice that are multiples of it: kernels work on 4, 8 or 16 at a
# time, and the rest of a vector is work for nothing (18 channels take the time of 24 with AVX2).
LANES = 8
FEWER, MORE = 7 / 8, 1.05  # shares of the channels that whole vectors may have


@dataclass(frozen=True)
class Chain(Form):
    """A convolution with R = `channels` between its parts."""

    channels: int

    @property
    def step_words(self) -> str:
        """ "37 channels"."""
        return f"{self.channels} channels"

    @property
    def words(self) -> str:
        """ "bottleneck of 37 channels"."""
        return f"{self.kind} of {self.step_words}"

    @property
    def short(self) -> str:
        """ "bottleneck 37"."""
        return f"{self.kind} {self.channels}"

    @property
    def step(self) -> int:
        """The channels."""
        return self.channels

    @classmethod
    @abstractmethod
    def exact_channels(cls, kernel: Kernel) -> int:
        """The channels from which on any kernel (N, M, kh, kw) can be reproduced."""

    @classmethod
    @abstractmethod
    def unsuited(cls, kernel: Kernel) -> str | None:
        """Why a kernel cannot take the form, however many channels."""

    @abstractmethod
    def sizes(self, kernel: Kernel, maps: Maps | None) -> tuple[Size, ...]:
        """What each part has: its weights, the pixels that it multiplies at, those of the map that
        it writes for the next part (0 for the last)."""

    def cost(
        self, convolution: Convolution, maps: Maps | None, *, bias: bool, style: Style = "linear"
    ) -> Cost:
        """The sum over the parts of weights times pixels. The bias adds N parameters and no
        multiply-adds. Bytes: the ends, each map between written and read, and the weights."""
        outs, ins = convolution.kernel[:2]
        parts = self.sizes(convolution.kernel, maps)
        params = sum(weights for weights, _, _ in parts) + (outs if bias else 0)
        if maps is None:
            return Cost(None, params)
        macs = sum(weights * pixels for weights, pixels, _ in parts)
        values = ins * maps.read + outs * maps.written + params
        values += sum(2 * self.channels * between for _, _, between in parts)
        assert convolution.module is not None
        moved = int(values * convolution.module.weight.element_size())
        return Cost(int(macs), params, moved)

    def fault(self, kernel: Kernel, style: Style) -> str | None:
        """A kernel or a style that does not suit, or more channels than exactness takes."""
        unsuited = self.unsuited(kernel)
        if unsuited is not None:
            return unsuited
        most = self.exact_channels(kernel)
        if self.channels > most:
            return (
                f"{self.channels} channels are too many, {most} are already exact for a kernel "
                f"{kernel} as {self.kind}"
            )
        return None if style == "linear" else f"style '{style}' is for dw-pw, not for {self.kind}"

    def is_exact(self, kernel: Kernel) -> bool:
        """With as many channels as any kernel takes."""
        return self.channels >= self.exact_channels(kernel)

    def extent(self, kernel: Kernel) -> str:
        """ "bottleneck of 37 channels, exact from 144"."""
        return f"{self.words}, exact from {self.exact_channels(kernel)}"

    @classmethod
    def promising(cls, kernel: Kernel) -> bool:
        """Whether it is worth solving where nobody asked for this form."""
        return cls.unsuited(kernel) is None

    @classmethod
    def candidates(cls, kernel: Kernel) -> Iterator[Form]:
        """A geometric ladder of channels, from few up to where the weights are as many as the
        kernel's."""
        if not cls.promising(kernel):
            return
        each = sum(weights for weights, _, _ in cls(1).sizes(kernel, None))
        most = min(math.prod(kernel) / each, cls.exact_channels(kernel) - 1)
        sizes = {_rounded(most / FINER**number) for number in range(STEPS)}
        yield from (cls(channels) for channels in sorted(sizes - {0}))

    def between(self, other: Chain) -> Iterator[Chain]:
        """The sizes from here up to `other`, a larger one, that candidates leave out: two on a
        geometric ladder."""
        ratio = other.channels / self.channels
        sizes = {_rounded(self.channels * ratio ** (third / 3)) for third in (1, 2)}
        yield from (
            type(self)(size) for size in sorted(sizes) if self.channels < size < other.channels
        )

    @classmethod
    def within(cls, macs: float, convolution: Convolution, maps: Maps) -> Form | None:
        """The form nearest to so many multiply-adds, with whole vectors where that changes them
        little; None where the convolution cannot take it."""
        if cls.unsuited(convolution.kernel) is not None:
            return None
        each = cls(1).cost(convolution, maps, bias=False).macs or 1
        most = cls.exact_channels(convolution.kernel)
        return cls(max(1, min(most, _whole_vectors(round(macs / each)))))


@dataclass(frozen=True)
class Bottleneck(Chain):
    """Pointwise M -> R, depthwise on R channels, pointwise R -> N."""

    kind: ClassVar[str] = "bottleneck"

    @property
    def parts(self) -> tuple[str, ...]:
        """The three, in execution order."""
        return ("reduce", "depthwise", "expand")

    @classmethod
    def exact_channels(cls, kernel: Kernel) -> int:
        """Each tap by itself: kh * kw * min(M, N)."""
        return kernel[2] * kernel[3] * min(kernel[:2])

    @classmethod
    def unsuited(cls, kernel: Kernel) -> str | None:
        """1x1."""
        return "1x1: already pointwise" if kernel[2:] == (1, 1) else None

    def sizes(self, kernel: Kernel, maps: Maps | None) -> tuple[Size, ...]:
        """R * (M at the size read + (kh * kw + N) at the size written)."""
        outs, ins, kh, kw = kernel
        read, written = (maps.read, maps.written) if maps else (0, 0)
        size = self.channels
        return (
            (size * ins, read, read),
            (size * kh * kw, written, written),
            (size * outs, written, 0),
        )

    def stand_in(self, conv: nn.Conv2d) -> nn.Sequential:
        """The three convolutions; a bias on the last."""
        size = self.channels
        return nn.Sequential(
            nn.Conv2d(conv.in_channels, size, 1, bias=False),
            nn.Conv2d(size, size, groups=size, bias=False, **window_of(conv)),
            nn.Conv2d(size, conv.out_channels, 1),
        )


@dataclass(frozen=True)
class LowRank(Chain):
    """The window M -> R, then pointwise R -> N; for a 1x1 convolution two pointwise ones."""

    kind: ClassVar[str] = "low-rank"

    @property
    def parts(self) -> tuple[str, ...]:
        """The two, in execution order."""
        return ("reduce", "expand")

    @classmethod
    def exact_channels(cls, kernel: Kernel) -> int:
        """The rank of the kernel as a matrix: min(N, M * kh * kw)."""
        return min(kernel[0], math.prod(kernel[1:]))

    @classmethod
    def unsuited(cls, kernel: Kernel) -> str | None:
        """Nothing."""
        return None

    @classmethod
    def promising(cls, kernel: Kernel) -> bool:
        """For 1x1 convolutions alone: with a window, other forms lose several times less."""
        return kernel[2:] == (1, 1)

    def sizes(self, kernel: Kernel, maps: Maps | None) -> tuple[Size, ...]:
        """R * (M * kh * kw + N), all at the size written."""
        written = maps.written if maps else 0
        size = self.channels
        return (
            (size * math.prod(kernel[1:]), written, written),
            (size * kernel[0], written, 0),
        )

    def stand_in(self, conv: nn.Conv2d) -> nn.Sequential:
        """The two convolutions; a bias on the last."""
        return nn.Sequential(
            nn.Conv2d(conv.in_channels, self.channels, bias=False, **window_of(conv)),
            nn.Conv2d(self.channels, conv.out_channels, 1),
        )


@dataclass(frozen=True)
class Spatial(Chain):
    """A column kh x 1 M -> R, then a row 1 x kw R -> N."""

    kind: ClassVar[str] = "spatial"

    @property
    def parts(self) -> tuple[str, ...]:
        """The two, in execution order."""
        return ("vertical", "horizontal")

    @classmethod
    def exact_channels(cls, kernel: Kernel) -> int:
        """The rank of the kernel's unfolding: min(M * kh, N * kw)."""
        return min(kernel[1] * kernel[2], kernel[0] * kernel[3])

    @classmethod
    def unsuited(cls, kernel: Kernel) -> str | None:
        """A window of one row or column."""
        return "its window has one row or column" if 1 in kernel[2:] else None

    @classmethod
    def promising(cls, kernel: Kernel) -> bool:
        """For windows above 3x3: at 3x3 another form of equal cost lost less in every layer of a
        ResNet-20 at rank 1."""
        return cls.unsuited(kernel) is None and math.prod(kernel[2:]) > 9

    def sizes(self, kernel: Kernel, maps: Maps | None) -> tuple[Size, ...]:
        """R * M * kh at the rows written and the columns read, R * N * kw at the size written."""
        outs, ins, kh, kw = kernel
        between, written = (maps.between, maps.written) if maps else (0, 0)
        size = self.channels
        return (size * ins * kh, between, between), (size * outs * kw, written, 0)

    def stand_in(self, conv: nn.Conv2d) -> nn.Sequential:
        """The two convolutions; a bias on the last."""
        return nn.Sequential(
            nn.Conv2d(conv.in_channels, self.channels, bias=False, **window_of(conv, (0,))),
            nn.Conv2d(self.channels, conv.out_channels, **window_of(conv, (1,))),
        )


def _rounded(channels: float) -> int:
    """Whole, and a multiple of LANES where there are many."""
    return LANES * round(channels / LANES) if channels > 2 * LANES else round(channels)


def _whole_vectors(channels: int) -> int:
    """The nearest multiple of LANES, if it is near enough."""
    down, up = channels // LANES * LANES, -(-channels // LANES) * LANES
    if up <= MORE * channels:
        return up
    return down if down >= FEWER * channels else channels
