"""Improve the factors of a block together, against what the original block puts out.

Least squares makes each convolution's own output right; what counts is what leaves the block,
after the activation and the addition. From the solved start, a few hundred gradient steps on the
factors alone (no labels, nothing else is trained) bring the block's output closer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.calibration.blocks import Block
from sepify.calibration.lockstep import Values, run_block
from sepify.factorize.coordinates import Coordinates, whiten
from sepify.factorize.factors import Factors
from sepify.passes.graph import called_module

Tell = Callable[[int, int], None]  # steps done, steps in all
LossOf = Callable[[Tensor, dict[str, Factors]], Tensor]

TELL_EVERY = 10  # steps
SEEN = 64  # images whose values in the block tell the directions apart
JUDGED_AT_ONCE = 64
HELDOUT = 8  # as in the solver: one image in eight judges, the others teach


@dataclass(frozen=True)
class Refinement:
    """Adam (Kingma and Ba 2015) with a cosine rate on mini-batches of the calibration images, in
    coordinates in which all directions of the factors weigh alike. Many small batches get further
    than few large ones (see benchmarks/README.md)."""

    steps: int = 400  # for each part of the block, or for two of its convolutions if that is more
    batch: int = 16
    rate: float = 1e-2  # relative to the root mean square of each factor, in these coordinates
    seed: int = 0


@dataclass(frozen=True)
class Refined:
    """Refined factors, and the relative squared error of the block's output on held-out images:
    E|given - wanted|^2 over the variance of the wanted output."""

    factors: dict[str, Factors]
    heldout_error: float


def refine_block(
    original: fx.GraphModule,
    block: Block,
    entered: Sequence[Values],
    wanted: Sequence[Values],
    factors: dict[str, Factors],
    options: Refinement,
    tell: Tell,
) -> Refined:
    """Factors that bring the exits of `block` nearer to `wanted`, or those given if the held-out
    images say that it did not. `entered` holds the values at the block's entries in the converted
    network, `wanted` those at its exits in the original, a batch each.

    Blocks whose boundary values are not all tensors of one row an image are left as they are
    (sizes that a graph computes from its batch would not fit a mini-batch); error NaN then.
    """
    interpreter = fx.Interpreter(original)
    inputs = _Images.gather(entered, block.entries)
    exits = [node for node in block.exits if node in wanted[0]]
    outputs = _Images.gather(wanted, exits)
    if inputs is None or outputs is None or inputs.count != outputs.count:
        return Refined(factors, float("nan"))
    judged = torch.arange(inputs.count) % HELDOUT == HELDOUT - 1
    power = outputs.power()

    def loss_of(chosen: Tensor, trial: dict[str, Factors]) -> Tensor:
        given = run_block(interpreter, block, inputs.pick(chosen), trial)
        right = outputs.pick(chosen)
        errors = [(given[n] - right[n]).square().sum() / (len(chosen) * power[n]) for n in exits]
        return torch.stack(errors).mean()

    def heldout_error(trial: dict[str, Factors]) -> float:
        parts = judged.nonzero().flatten().split(JUDGED_AT_ONCE)
        total = sum(float(loss_of(part, trial)) * len(part) for part in parts)
        return total / int(judged.sum())

    taught = (~judged).nonzero().flatten()
    seen = taught[:: -(-len(taught) // SEEN)].split(options.batch)
    coordinates = _whitened(interpreter, block, [inputs.pick(part) for part in seen], factors)
    with torch.enable_grad():
        steps = options.steps * max(block.parts, math.ceil(len(coordinates) / 2))
        refined = _descend(coordinates, taught, loss_of, steps, options, tell)
    before, after = heldout_error(factors), heldout_error(refined)
    return Refined(refined, after) if after < before else Refined(factors, before)


@dataclass(frozen=True)
class _Images:
    """Values a batch each, to be picked from by the number of the image."""

    batches: Sequence[Mapping[fx.Node, Tensor]]
    where: tuple[tuple[int, int], ...]  # of each image: its batch, its row

    @property
    def count(self) -> int:
        return len(self.where)

    @staticmethod
    def gather(batches: Sequence[Values], nodes: Sequence[fx.Node]) -> _Images | None:
        """None unless every value is a floating-point tensor with a row for each image."""
        where: list[tuple[int, int]] = []
        for number, values in enumerate(batches):
            rows = {_rows(values[node]) for node in nodes}
            if len(rows) != 1 or None in rows:
                return None
            where += [(number, row) for row in range(rows.pop() or 0)]
        return _Images([{n: values[n] for n in nodes} for values in batches], tuple(where))

    def pick(self, chosen: Tensor) -> dict[fx.Node, Tensor]:
        places = [self.where[i] for i in chosen.tolist()]
        return {
            node: torch.stack([self.batches[number][node][row] for number, row in places])
            for node in self.batches[0]
        }

    def power(self) -> dict[fx.Node, float]:
        """The variance of each value around its mean over the images, summed over its elements."""
        result = {}
        for node in self.batches[0]:
            parts = [values[node] for values in self.batches]
            mean = sum(part.sum(0) for part in parts) / self.count
            total = sum(float((part - mean).square().sum()) for part in parts)
            result[node] = max(total / self.count, 1e-12)
        return result


def _rows(value: Any) -> int | None:
    if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0:
        return len(value)
    return None


def _whitened(
    interpreter: fx.Interpreter,
    block: Block,
    entered: Sequence[Mapping[fx.Node, Tensor]],
    factors: dict[str, Factors],
) -> dict[str, Coordinates]:
    """Coordinates for each convolution's factors, by what it meets at its first call."""
    calls: dict[str, fx.Node] = {}
    for node in block.nodes:
        if node.op == "call_module" and str(node.target) in factors:
            calls.setdefault(str(node.target), node)
    met: dict[str, list[Tensor]] = {name: [] for name in calls}
    for part in entered:
        values = run_block(interpreter, block, part, factors)
        for name, node in calls.items():
            met[name].append(values[node.all_input_nodes[0]])
    found = {}
    for name, node in calls.items():
        conv = called_module(interpreter.module, node)
        assert isinstance(conv, nn.Conv2d)
        found[name] = whiten(factors[name], conv, torch.cat(met.pop(name)))
    return found


def _descend(
    coordinates: dict[str, Coordinates],
    taught: Tensor,
    loss_of: LossOf,
    steps: int,
    options: Refinement,
    tell: Tell,
) -> dict[str, Factors]:
    """Run the optimiser."""

    def factors() -> dict[str, Factors]:
        return {name: each.factors() for name, each in coordinates.items()}

    parameters = [p for each in coordinates.values() for p in each.parameters]
    optimiser = torch.optim.Adam(parameters, options.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(options.seed)
    for step in range(steps):
        if step % TELL_EVERY == 0:
            tell(step, steps)
        order = torch.randperm(len(taught), generator=generator)
        loss = loss_of(taught[order[: options.batch]], factors())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return factors()
