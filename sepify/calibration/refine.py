"""Improve the factors of a block together, against what the original block puts out.

Least squares makes each convolution's own output right; what counts is what leaves the block,
after the activation and the addition. From the solved start, a few hundred gradient steps on the
factors alone (no labels, nothing else is trained) bring the block's output closer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from sepify.calibration.blocks import Block
from sepify.calibration.following import Images
from sepify.calibration.replay import Edges, run_block
from sepify.errors import first_line
from sepify.factorize.coordinates import Coordinates, whiten
from sepify.factorize.factors import Factors
from sepify.graph.modules import called_module

Tell = Callable[[int, int], None]  # steps done, steps in all

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
    E|given - wanted|^2 over the variance of the wanted output. Where the block was left as it is,
    `told` says why, and there is no error."""

    factors: dict[str, Factors]
    heldout_error: float | None
    told: str | None = None


def refine_block(
    original: fx.GraphModule,
    block: Block,
    edges: Edges,
    factors: dict[str, Factors],
    options: Refinement,
    tell: Tell,
) -> Refined:
    """Factors that bring the exits of `block` nearer to those of the original, or those given if
    the held-out images say that it did not.

    A block is left as it is where a value that enters it cannot be told for a few of the images, or
    where no gradient leads from its outputs to its factors.
    """

    def left(why: str) -> Refined:
        return Refined(factors, None, f"not refined, {why}")

    if edges.following.failed is not None:
        return left(edges.following.failed)
    inputs = Images(edges.following, edges.entered, block.entries)
    if inputs.unfollowed:
        return left(next(iter(inputs.unfollowed.values())))
    outputs = Images(edges.following, edges.wanted, block.exits)
    variances = outputs.maps()
    if not variances:
        mixed = next(iter(outputs.unfollowed.values()), None)
        return left(mixed or "its block puts out whole numbers alone")
    judge = _Judge(fx.Interpreter(original), block, inputs, outputs, variances)
    try:
        return _refined(judge, factors, options, tell)
    except RuntimeError as error:  # an operation of the block has no derivative, say
        return left(
            f"its block cannot be run backwards on a few of the images: {first_line(error)}"
        )


def _refined(
    judge: _Judge, factors: dict[str, Factors], options: Refinement, tell: Tell
) -> Refined:
    block, inputs = judge.block, judge.inputs
    judged = torch.arange(len(inputs)) % HELDOUT == HELDOUT - 1

    def heldout_error(trial: dict[str, Factors]) -> float:
        parts = inputs.parts(judged.nonzero().flatten(), JUDGED_AT_ONCE)
        total = sum(float(judge.loss(part, trial)) * len(part) for part in parts)
        return total / int(judged.sum())

    taught = (~judged).nonzero().flatten()
    seen = inputs.alike(taught[:: -(-len(taught) // SEEN)], SEEN)
    met = [inputs.pick(part) for part in seen.split(options.batch)]
    coordinates = _whitened(judge.interpreter, block, met, factors)
    with torch.enable_grad():
        steps = options.steps * max(block.parts, math.ceil(len(coordinates) / 2))
        refined = _descend(coordinates, taught, judge, steps, options, tell)
    before, after = heldout_error(factors), heldout_error(refined)
    if not math.isfinite(before):
        return Refined(factors, None, "not refined, its block's outputs overflow")
    return Refined(refined, after) if after < before else Refined(factors, before)


@dataclass(frozen=True)
class _Judge:
    """Runs a block on picked images and compares."""

    interpreter: fx.Interpreter
    block: Block
    inputs: Images
    outputs: Images
    variances: dict[tuple[fx.Node, int], float]  # of the maps that are compared

    def loss(self, chosen: Tensor, trial: dict[str, Factors]) -> Tensor:
        """The mean over the maps of their squared error, relative to their variance."""
        given = run_block(self.interpreter, self.block, self.inputs.pick(chosen), trial)
        right = self.outputs.pick(chosen)
        errors = []
        for (node, at), variance in self.variances.items():
            wrong = tree_leaves(given[node])[at] - tree_leaves(right[node])[at]
            errors.append((wrong / math.sqrt(variance)).square().mean())
        return torch.stack(errors).mean()


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
    judge: _Judge,
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
        chosen = judge.inputs.alike(taught[order], options.batch)
        loss = judge.loss(chosen, factors())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return factors()
