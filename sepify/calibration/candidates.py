"""Solve several forms of each convolution from one set of its statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.calibration.blocks import Block
from sepify.calibration.moments import SplitMomentSums, require_finite
from sepify.calibration.refine import Refinement, refine_block
from sepify.calibration.replay import Edges, Feed, solve_in_step
from sepify.factorize.factors import Factors
from sepify.factorize.solvers import solve_form
from sepify.factorize.statistics import Moments, covariance_bytes
from sepify.graph.batches import Batch, image_count
from sepify.plans.form import Form
from sepify.process.progress import Progress

ITERATIONS = 5  # of the solver: enough to compare candidates, which the chosen one's solve redoes
# No size is looked at of a family that loses so many times as much as another at equal cost: which
# family wins in a layer hardly depends on the size.
OUTCLASSED = 1.15
STATISTICS_BYTES = 2**29  # of the covariances that are summed up at a time


@torch.no_grad()
def solve_alone(
    network: fx.GraphModule,
    forms: Mapping[str, Sequence[Form]],
    batches: Sequence[Batch],
    progress: Progress,
    scouts: Mapping[str, Sequence[Form]] | None = None,
) -> dict[str, dict[Form, Factors]]:
    """Factors for every form of every convolution, each as if it alone were rewritten: its inputs
    and its wanted outputs are those of `network` (in inference mode, without in-place operations).

    `scouts` are forms of equal cost, one of each family: a family whose scout loses far more than
    the best one's is left out, but for dw-pw.

    One forward pass, or as many as it takes to keep the statistics under half a gigabyte.
    """
    solved: dict[str, dict[Form, Factors]] = {}
    for names in _grouped(network, list(forms)):
        convs = {name: _conv(network, name) for name in names}
        sums = {name: SplitMomentSums(conv, image_count(batches)) for name, conv in convs.items()}
        with _first_calls_counted(convs, sums) as begin:
            for number, batch in enumerate(batches):
                progress("statistics of every convolution", number, len(batches))
                begin()
                network(*batch)
        for name, conv in convs.items():
            progress(f"candidates of {name}", len(solved), len(forms))
            require_finite(name, sums[name])
            moments = sums.pop(name).moments()
            out = _outclassed(conv, (scouts or {}).get(name, ()), *moments)
            wanted = [form for form in forms[name] if form.family not in out]
            solved[name] = dict(zip(wanted, _solve(conv, wanted, *moments), strict=True))
    return solved


def solve_around(
    network: fx.GraphModule,
    chosen: Mapping[str, Form],
    others: Mapping[str, Sequence[Form]],
    batches: Sequence[Batch],
    progress: Progress,
) -> tuple[dict[str, Factors], dict[str, list[Factors]]]:
    """Factors for a whole plan, each layer solved behind those before it, and, from the same
    statistics, for `others` in the place of one layer at a time."""
    alternatives: dict[str, list[Factors]] = {}

    def solve(name: str, conv: nn.Conv2d, for_each_batch: Callable[[Feed], None]) -> Factors:
        progress(f"re-solving {name}", len(alternatives), len(chosen))
        sums = SplitMomentSums(conv, image_count(batches))
        for_each_batch(sums.add)
        require_finite(name, sums)
        first, *rest = _solve(conv, [chosen[name], *others.get(name, ())], *sums.moments())
        alternatives[name] = rest
        return first

    return solve_in_step(network, list(chosen), batches, solve), alternatives


def refine_solved(
    network: fx.GraphModule,
    solved: Mapping[str, Factors],
    batches: Sequence[Batch],
    refinement: Refinement,
    progress: Progress,
) -> dict[str, Factors]:
    """The factors of a whole plan, in execution order, refined block by block. Unlike conversion,
    this solves no layer anew behind the refined blocks: enough to compare plans."""

    def known(name: str, _conv: nn.Conv2d, _for_each_batch: Callable[[Feed], None]) -> Factors:
        return solved[name]

    def refine(block: Block, edges: Edges, inside: dict[str, Factors]) -> dict[str, Factors]:
        def tell(step: int, steps: int) -> None:
            progress(f"refining from {block.names[0]}, step {step} of {steps}", 0, len(solved))

        return refine_block(network, block, edges, inside, refinement, tell).factors

    return solve_in_step(network, list(solved), batches, known, refine)


def _solve(conv: nn.Conv2d, forms: Sequence[Form], fit: Moments, heldout: Moments) -> list[Factors]:
    return [solve_form(form, conv.weight, fit, heldout, ITERATIONS).factors for form in forms]


def _outclassed(
    conv: nn.Conv2d, scouts: Sequence[Form], fit: Moments, heldout: Moments
) -> set[str]:
    """The families that lose too much more than the best at equal cost."""
    lost = {
        form.family: solve_form(form, conv.weight, fit, heldout, ITERATIONS).heldout_error
        for form in scouts
    }
    best = min(lost.values(), default=0.0)
    return {family for family in lost if lost[family] > OUTCLASSED * best} - {"dw-pw"}


def _conv(network: fx.GraphModule, name: str) -> nn.Conv2d:
    conv = network.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _grouped(network: fx.GraphModule, names: Sequence[str]) -> Iterator[list[str]]:
    """Runs of convolutions whose statistics fit into memory together."""
    group: list[str] = []
    held = 0
    for name in names:
        size = 2 * covariance_bytes(_conv(network, name))  # of the fitted, the held-out images
        if group and held + size > STATISTICS_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


@contextmanager
def _first_calls_counted(
    convs: Mapping[str, nn.Conv2d], sums: Mapping[str, SplitMomentSums]
) -> Iterator[Callable[[], None]]:
    """Inside, each convolution's first call after the last begin() is counted into its sums."""
    seen: set[str] = set()

    def note(name: str, _module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        if name not in seen:
            seen.add(name)
            sums[name].add(args[0] if args else kwargs["input"], output)

    hooks = [
        conv.register_forward_hook(partial(note, name), with_kwargs=True)
        for name, conv in convs.items()
    ]
    try:
        yield seen.clear
    finally:
        for hook in hooks:
            hook.remove()
