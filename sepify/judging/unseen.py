"""A converted network judged on the images that were held out of making it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from sepify.errors import InputError
from sepify.graph.inputs import in_evaluation, restored_buffers
from sepify.graph.modes import evaluating
from sepify.graph.running import AFTER, BEFORE, answer
from sepify.judging.doubts import doubts, unclaimed
from sepify.judging.fidelity import Fidelity, fidelity
from sepify.judging.heldout import MOST, Split
from sepify.plans.plan import Plan
from sepify.plans.resolution import reduced_first

Batches = Sequence[tuple[Tensor, ...]]
NO_IMAGES = "no images were given to measure it on"
HELD_OUT = "held-out images"
FITTED = "images, and these it was even fitted to"


@dataclass(frozen=True)
class Verdict:
    """`fidelity` on held-out images; None where there are none, for the reason in `unjudged`.
    `warnings` are what the user has to know before trusting the network."""

    fidelity: Fidelity | None
    warnings: tuple[str, ...]
    unjudged: str = ""


def judge_unseen(before: nn.Module, after: nn.Module, plan: Plan, split: Split | None) -> Verdict:
    """`after` against `before` on the images of `split` that were held out.

    Where none were, no fidelity is claimed; but a network that is poor even on images that it was
    fitted to is poor. `split` is None for a network that was made without images.
    """
    if split is None:
        return Verdict(None, (unclaimed(NO_IMAGES), *doubts(None, plan)), NO_IMAGES)
    judged = split.heldout or _some(split.fit)
    try:
        found = _fidelity(before, after, plan, judged)
    except InputError as error:  # outputs that are not finite, or of another shape for each input
        why = f"it cannot be measured on this network's outputs ({error})"
        return Verdict(None, (unclaimed(why), *doubts(None, plan)), why)
    if split.heldout:
        return Verdict(found, doubts(found, plan, HELD_OUT))
    told = () if split.asked else (unclaimed(split.why),)
    return Verdict(None, (*told, *doubts(found, plan, FITTED)), split.why)


def _fidelity(before: nn.Module, after: nn.Module, plan: Plan, batches: Batches) -> Fidelity:
    return fidelity(
        (_answer(before, None, batch, BEFORE), _answer(after, plan, batch, AFTER))
        for batch in batches
    )


def _answer(
    network: nn.Module, plan: Plan | None, batch: tuple[Tensor, ...], who: str
) -> tuple[Tensor, ...]:
    """What it answers to a first call: a state of its own is as before afterwards."""
    if isinstance(network, fx.GraphModule):
        with in_evaluation(network) as model:
            return answer(reduced_first(model, plan), batch, who)
    with evaluating(network), restored_buffers(network):
        return answer(reduced_first(network, plan), batch, who)


def _some(batches: Batches) -> Batches:
    """As many of the batches, evenly spread, as hold some 128 images."""
    images = sum(len(batch[0]) for batch in batches)
    step = max(1, images // MOST)
    return batches[::step]
