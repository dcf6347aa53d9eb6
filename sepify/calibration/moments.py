"""The moments (or maps) of one convolution that solvers take, gathered batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sepify.errors import ConversionError
from sepify.factorize.conjugate_gradients import Maps, judge_on_maps, solve_on_maps
from sepify.factorize.factors import Factors, SeparableFactors
from sepify.factorize.least_squares import solve_least_squares
from sepify.factorize.solution import Solution, apply_factors
from sepify.factorize.solvers import factorize, solve_form
from sepify.factorize.statistics import Moments, MomentSums, covariance_bytes
from sepify.plans.form import Form

HELDOUT = 8  # one image in eight is held out, for the damping and for the errors in the plan
# Output positions that are counted at least: so many for each element of a patch, and never fewer
# than so many. Counting all of them instead changes the demo network's top-1 by less than its
# confidence interval (see benchmarks/README.md).
POSITIONS = 100
FEWEST_POSITIONS = 65_536
NEARLY_ALL = 0.75  # choosing costs time too
WORKING_COPIES = 6  # of the maps, while they are solved on
MEMORY = 4 * 2**30  # bytes
STATISTICS_SHARE = 1 / 2  # of the memory, for the two covariances of a layer or for its maps


def gather(conv: nn.Conv2d, images: int, memory: int) -> SplitMomentSums | SplitMaps:
    """Moments of `conv` where they fit into their share of `memory` bytes, its maps otherwise."""
    room = int(STATISTICS_SHARE * memory)
    if 2 * covariance_bytes(conv) <= room:
        return SplitMomentSums(conv, images)
    return SplitMaps(conv, room)


class SplitMomentSums:
    """Moments of the images to fit and of those held out, one in eight, over all batches.

    Of each batch's output positions a random choice is counted, the same in each of its images,
    where all images together would give many more than are needed. Same data, same choice.
    """

    told = ""  # of how the layer was solved, where it is not the usual way

    def __init__(self, conv: nn.Conv2d, images: int) -> None:
        self.fit, self.heldout = MomentSums(conv), MomentSums(conv)
        self.seen = 0
        unknowns = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
        self.per_image = -(-max(FEWEST_POSITIONS, POSITIONS * unknowns) // images)
        self.generator = torch.Generator().manual_seed(unknowns)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Count in (B, M, H, W) inputs and the (B, N, H', W') outputs wanted for them."""
        out = [(self.seen + row) % HELDOUT == HELDOUT - 1 for row in range(len(inputs))]
        self.seen += len(inputs)
        at = self._positions(outputs)
        for sums, held_out in ((self.fit, False), (self.heldout, True)):
            chosen = [row for row, is_out in enumerate(out) if is_out == held_out]
            if chosen:
                rows = torch.tensor(chosen).to(inputs.device)
                sums.add(inputs.index_select(0, rows), outputs.index_select(0, rows), at)

    def _positions(self, outputs: Tensor) -> Tensor | None:
        """The output positions in each image that count; None for all of them."""
        there = outputs.shape[2] * outputs.shape[3]
        if self.per_image >= NEARLY_ALL * there:
            return None
        chosen = torch.randperm(there, generator=self.generator)[: self.per_image]
        return chosen.sort().values.to(outputs.device)

    @property
    def positions(self) -> int:
        """Counted for the fit."""
        return self.fit.positions

    @property
    def finite(self) -> bool:
        """Whether the network's values there, and their products, are finite."""
        return all(moments.finite for moments in self.moments())

    def solve(self, forms: Sequence[Form], conv: nn.Conv2d) -> dict[Form, Solution]:
        """The factors of each of `forms` for `conv`."""
        moments = self.moments()
        return {form: solve_form(form, conv.weight, *moments) for form in forms}

    def improve(self, start: SeparableFactors) -> Solution:
        """`start` improved."""
        return solve_least_squares(start, *self.moments())

    def judge(self, factors: Factors) -> Solution:
        """`factors` with the best bias, and their errors."""
        return apply_factors(factors, *self.moments())

    def moments(self) -> tuple[Moments, Moments]:
        """Moments of the fitted images, and of those held out of them."""
        return self.fit.moments(), self.heldout.moments()


class SplitMaps:
    """The maps of as many images as fit into `room` bytes with what solving on them takes."""

    def __init__(self, conv: nn.Conv2d, room: int) -> None:
        self.conv = conv
        self.room = room // WORKING_COPIES
        self.taken: list[Maps] = []
        self.images = self.seen = 0

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Keep (B, M, H, W) inputs and the (B, N, H', W') outputs wanted for them, if they fit."""
        self.seen += len(inputs)
        each = (inputs[0].numel() + outputs[0].numel()) * max(4, inputs.element_size())
        fitting = max(0, self.room // each - self.images)
        if self.taken and inputs.shape[1:] != self.taken[0].inputs.shape[1:]:
            return  # of another size: they could not be put together
        if self.images < 2 * HELDOUT:
            fitting = max(fitting, 2 * HELDOUT - self.images)  # fewer could not be split
        if fitting:
            self.taken.append(Maps(inputs[:fitting], outputs[:fitting]))
            self.images += len(self.taken[-1].inputs)

    @property
    def positions(self) -> int:
        """Counted for the fit."""
        rows = self.images - self.images // HELDOUT
        return rows * self.taken[0].outputs[0, 0].numel()

    @property
    def told(self) -> str:
        """How the layer was solved, and on how much."""
        needed = 2 * covariance_bytes(self.conv) / 2**30
        return (
            f"solved by conjugate gradients on the maps of {self.images} of {self.seen} images, "
            f"its covariances would take {needed:.1f} GiB"
        )

    @property
    def finite(self) -> bool:
        """Whether the network's values there are finite."""
        return all(maps.finite for maps in self.taken)

    def solve(self, forms: Sequence[Form], conv: nn.Conv2d) -> dict[Form, Solution]:
        """The factors of each of `forms` for `conv`."""
        return {form: self.improve(factorize(form, conv.weight, None)) for form in forms}

    def improve(self, start: Factors) -> Solution:
        """`start` improved."""
        return solve_on_maps(start, self.conv, *self._split())

    def judge(self, factors: Factors) -> Solution:
        """`factors` with the best bias, and their errors."""
        return judge_on_maps(factors, self.conv, *self._split())

    def _split(self) -> tuple[Maps, Maps]:
        """Maps of the fitted images, and of those held out of them."""
        inputs = torch.cat([each.inputs for each in self.taken])
        outputs = torch.cat([each.outputs for each in self.taken])
        out = torch.arange(len(inputs), device=inputs.device) % HELDOUT == HELDOUT - 1
        return Maps(inputs[~out], outputs[~out]), Maps(inputs[out], outputs[out])


def require_finite(name: str, seen: SplitMomentSums | SplitMaps) -> None:
    """Raise ConversionError naming the layer where what was gathered holds NaN or infinity."""
    if not seen.finite:
        raise ConversionError(
            f"'{name}' meets or gives NaN or infinity on the calibration images: are they prepared "
            "as the network was trained, and are its weights and BatchNorm statistics sound?"
        )


def require_solved(name: str, solution: Solution) -> None:
    """Raise ConversionError naming the layer whose solution is not finite, or does not fit into the
    type of its weights."""
    errors = (solution.fitted_error, solution.heldout_error)
    if not (solution.factors.finite and all(map(math.isfinite, errors))):
        kind = str(solution.factors.dtype).removeprefix("torch.")
        raise ConversionError(
            f"'{name}' cannot be solved for in {kind}: its values are too large or too far apart; "
            "leave it alone (keep), or use a wider type"
        )
