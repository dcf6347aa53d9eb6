"""The steps of quantising, each of which can be left out to see what it is worth."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.errors import UsageError
from sepify.graph.grids import LARGEST_WEIGHT, WeightBits

STRENGTHS: dict[WeightBits, tuple[float, ...]] = {8: (0.0, 1.0), 4: (0.0, 1.0, 2.0, 4.0)}


@dataclass(frozen=True)
class Recipe:
    """How a network is quantised.

    Attributes:
        weights: bits of the weights, 8 or 4; at 4 the depthwise and other grouped layers, the first
            and the last stay at 8.
        clip: activations' scales by least squared error, not by the largest value.
        channels: a scale for each channel of an activation, not one for all.
        compensate: weights rounded with error compensation, and biases corrected.
        solve: weights solved anew behind what is quantised.
        strengths: the widenings of a map between two linear layers that are tried; by default those
            of the weights' bits.
    """

    weights: WeightBits = 8
    clip: bool = True
    channels: bool = True
    compensate: bool = True
    solve: bool = True
    strengths: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights not in LARGEST_WEIGHT or isinstance(self.weights, bool):
            known = " or ".join(map(str, LARGEST_WEIGHT))
            raise UsageError(f"weights of {self.weights!r} bits are not supported: give {known}")

    def widenings(self) -> tuple[float, ...]:
        """The strengths to try."""
        return STRENGTHS[self.weights] if self.strengths is None else self.strengths
