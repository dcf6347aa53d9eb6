"""Solve every separated convolution of a plan: from its weights alone, or on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from sepify.calibration.batches import Batch, image_count
from sepify.calibration.blocks import Block
from sepify.calibration.lockstep import Feed, Values, solve_in_step
from sepify.calibration.refine import Refinement, refine_block
from sepify.errors import InputError
from sepify.factorize.factors import Factors
from sepify.factorize.least_squares import Solution, apply_factors, solve_least_squares
from sepify.factorize.statistics import Moments, MomentSums
from sepify.factorize.svd import factorize_svd
from sepify.passes.fold_batchnorm import fold_batchnorm
from sepify.passes.out_of_place import make_out_of_place
from sepify.planning.plan import Decision, Plan

HELDOUT = 8  # one image in eight is held out, for the damping and for the errors in the plan
# Output positions that are counted at least: so many for each element of a patch, and never fewer
# than so many. Counting all of them instead changes the demo network's top-1 by less than its
# confidence interval (see benchmarks/README.md).
POSITIONS = 100
FEWEST_POSITIONS = 65_536
NEARLY_ALL = 0.75  # choosing costs time too


def solve_on_data(
    original: fx.GraphModule,
    plan: Plan,
    batches: Sequence[Batch],
    progress: Callable[[str, int, int], None] | None = None,
    refinement: Refinement | None = None,
) -> tuple[dict[str, Factors], Plan]:
    """Least-squares factors for every separated convolution of `plan`, and the plan with each
    layer's relative squared output error, on the fitted and on the held-out images.

    `original` is not changed. Raises InputError if there are fewer than 16 images.
    """
    if image_count(batches) < 2 * HELDOUT:
        raise InputError(
            f"{image_count(batches)} calibration images are too few: least squares needs at least "
            f"{2 * HELDOUT}, and a few hundred to be good; or use method='svd'"
        )
    decisions = {decision.name: decision for decision in plan.separated}
    solutions: dict[str, Solution] = {}
    tied: dict[int, Factors] = {}  # by weight: convolutions that share one go on sharing

    def solve(name: str, conv: nn.Conv2d, for_each_batch: Callable[[Feed], None]) -> Factors:
        if progress is not None:
            progress(f"solving {name}", len(solutions), len(decisions))
        start = _svd_start(conv, decisions[name])
        sums = SplitMomentSums(conv, image_count(batches))
        for_each_batch(sums.add)
        fit, heldout = sums.moments()
        solution = solve_least_squares(start, fit, heldout)
        if id(conv.weight) in tied:
            solution = apply_factors(tied[id(conv.weight)], fit, heldout)
        tied[id(conv.weight)] = solution.factors
        solutions[name] = solution
        return solution.factors

    network = make_out_of_place(original).eval().requires_grad_(False)
    network = fold_batchnorm(network, untouched=decisions)
    block_errors: dict[str, float] = {}

    def refine(
        block: Block,
        entered: Sequence[Values],
        wanted: Sequence[Values],
        inside: dict[str, Factors],
    ) -> dict[str, Factors]:
        assert refinement is not None
        if progress is not None:
            progress(f"refining {block.names[0]}", len(solutions), len(decisions))
        refined = refine_block(network, block, entered, wanted, inside, refinement)
        block_errors.update(dict.fromkeys(block.names, refined.heldout_error))
        return refined.factors

    refiner = None if refinement is None else refine
    factors = solve_in_step(network, list(decisions), batches, solve, refiner)
    if progress is not None:
        progress("solved", len(decisions), len(decisions))
    solved = tuple(
        _noted(decision, solutions.get(decision.name), block_errors.get(decision.name))
        for decision in plan
    )
    return factors, replace(plan, decisions=solved)


def solve_by_svd(original: fx.GraphModule, plan: Plan) -> dict[str, Factors]:
    """Factors for every separated convolution of `plan` from the weights alone."""
    factors = {}
    for decision in plan.separated:
        conv = original.get_submodule(decision.name)
        assert isinstance(conv, nn.Conv2d)
        factors[decision.name] = _svd_start(conv, decision)
    return factors


def _svd_start(conv: nn.Conv2d, decision: Decision) -> Factors:
    assert decision.order is not None
    assert decision.rank is not None
    return factorize_svd(conv.weight, conv.bias, decision.order, decision.rank)


class SplitMomentSums:
    """Moments of the images to fit and of those held out, one in eight, over all batches.

    Of each batch's output positions a random choice is counted, the same in each of its images,
    where all images together would give many more than are needed. Same data, same choice.
    """

    def __init__(self, conv: nn.Conv2d, images: int) -> None:
        self.fit, self.heldout = MomentSums(conv), MomentSums(conv)
        self.seen = 0
        unknowns = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
        self.per_image = -(-max(FEWEST_POSITIONS, POSITIONS * unknowns) // images)
        self.generator = torch.Generator().manual_seed(unknowns)

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Count in (B, M, H, W) inputs and the (B, N, H', W') outputs wanted for them."""
        number = torch.arange(self.seen, self.seen + len(inputs))
        out = number % HELDOUT == HELDOUT - 1
        self.seen += len(inputs)
        at = self._positions(outputs)
        for sums, chosen in ((self.fit, ~out), (self.heldout, out)):
            if chosen.any():
                chosen = chosen.to(inputs.device)
                sums.add(inputs[chosen], outputs[chosen], at)

    def _positions(self, outputs: Tensor) -> Tensor | None:
        """Of the output positions in each image those that count, None: all."""
        there = outputs.shape[2] * outputs.shape[3]
        if self.per_image >= NEARLY_ALL * there:
            return None
        chosen = torch.randperm(there, generator=self.generator)[: self.per_image]
        return chosen.sort().values.to(outputs.device)

    def moments(self) -> tuple[Moments, Moments]:
        """Of the fitted, of the held-out images."""
        return self.fit.moments(), self.heldout.moments()


def _noted(decision: Decision, solution: Solution | None, block_error: float | None) -> Decision:
    """`decision` with the errors found; the solved bias may be a parameter that was not there."""
    if solution is None:
        return decision
    factors = solution.factors
    assert factors.bias is not None
    params = factors.depthwise.numel() + factors.pointwise.numel() + factors.bias.numel()
    return replace(
        decision,
        after=replace(decision.after, params=params),
        error=solution.fitted_error,
        heldout_error=solution.heldout_error,
        block_error=block_error,
    )
