"""A graph that takes more sizes than the one it was traced at, where the first does not.

Traced at the example, a graph has a check for each question about sizes that decided its course,
and refuses inputs for which the answer is another. Two things set it free:

- Numbers stay variables where the model rounds them: `int(x.shape[2])` fixes nothing.
- Where a check fails at another size and the graph answers there as the model does, bit for bit,
  both ways are alike, and the check is dropped: cutting off a padding that is not there, say.

Or the model remembers: a detector keeps the anchors of the last image size, and asks first. Once
run, it is traced along the short way, which is right for one size alone. So it is traced at another
size, along the way that computes everything; what it asked is a check that fails at the size that
it remembers, where the long way is right as well.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from sepify.capture.comparing import difference
from sepify.capture.inputs import Inputs, for_a_run, other_sizes, run_in_place, run_restored
from sepify.capture.reference import Reference
from sepify.capture.soft_numbers import soft_numbers
from sepify.capture.symbolic import Traced
from sepify.capture.tracer import CHECKED, value_trace
from sepify.errors import CaptureError

Fresh = Callable[[], nn.Module]  # a plain copy, which may be left changed
Checks = frozenset[fx.Node]


def trace_widely(fresh: Fresh, warm: Fresh, reference: Reference) -> Traced:
    """`value_trace` of a `fresh` copy of the model or of a `warm` one, which has run on the
    example, in the first way that takes other sizes too, where the model itself does; of the plain
    way if there is none. Raises CaptureError as `value_trace` does."""
    traced, soft = _first_trace(fresh, reference.inputs)
    if not any(map(_is_check, traced.graph_module.graph.nodes)):
        return traced
    for images_too in (True, False):
        other, third = other_sizes(reference.inputs, images_too, alone=not reference.training)
        expected = reference.answer(other)
        if expected is None:
            continue
        as_it_is = partial(_as_it_is, traced, other, expected)
        anew = partial(_anew, warm, soft, traced.leaves, reference, other)
        for way in (anew, as_it_is) if reference.remembers else (as_it_is, anew):
            found = way()
            if found is None:
                continue
            wider, needless = found
            if not needless or _agrees_without(wider, needless, third, reference.answer(third)):
                return _without(wider, needless)
    return traced


def _first_trace(fresh: Fresh, inputs: Inputs) -> tuple[Traced, bool]:
    """Traced with numbers that stay variables, or where that fails or leaves more layers whole,
    with Python's own; and whether the former."""
    softly = None
    try:
        softly = _trace(fresh(), inputs, True)
        if not softly.leaves:
            return softly, True
        plainly = _trace(fresh(), inputs, False)
    except CaptureError:
        if softly is None:
            return _trace(fresh(), inputs, False), False
        return softly, True
    return (plainly, False) if len(plainly.leaves) < len(softly.leaves) else (softly, True)


def _trace(
    model: nn.Module, inputs: Inputs, soft: bool, leaves: frozenset[str] = frozenset()
) -> Traced:
    with soft_numbers(model) if soft else nullcontext():
        return value_trace(model, inputs, leaves)


def _as_it_is(traced: Traced, other: Inputs, expected: Any) -> tuple[Traced, Checks] | None:
    """The graph of the example, if it answers at another size, and the checks that fail there."""
    try:
        answer = run_restored(traced.graph_module, other)
        return None if difference(expected, answer, exact=True) else (traced, frozenset())
    except Exception as error:  # operators refuse sizes with any exception
        if not str(error).startswith(CHECKED):
            return None
    failing = _failing(traced, other, expected)
    return None if failing is None else (traced, failing)


def _anew(
    warm: Fresh,
    soft: bool,
    leaves: frozenset[str],
    reference: Reference,
    other: Inputs,
) -> tuple[Traced, Checks] | None:
    """The graph of another size, if it answers at the example too, and the checks failing there."""
    try:
        traced = _trace(warm(), other, soft, leaves)
    except CaptureError:
        return None
    failing = _failing(traced, reference.inputs, reference.expected)
    return None if failing is None else (traced, failing)


def _agrees_without(traced: Traced, checks: Checks, inputs: Inputs, expected: Any) -> bool:
    """Whether the graph answers right where it was not yet asked, and no other check fails; where
    the model refuses, nothing is asked of it."""
    if expected is None:
        return True
    failing = _failing(traced, inputs, expected)
    return failing is not None and failing <= checks


def _failing(traced: Traced, inputs: Inputs, expected: Any) -> Checks | None:
    """The checks that fail for `inputs`; None if past them the graph answers otherwise than
    `expected`."""
    try:
        with for_a_run(traced.graph_module) as model:
            past = _PastChecks(model)
            actual = run_in_place(past.run, inputs)
    except Exception:  # operators refuse sizes with any exception
        return None
    if difference(expected, actual, exact=True) is not None:
        return None
    return frozenset(past.failing)


class _PastChecks(fx.Interpreter):
    """Runs a graph past its checks, and notes which of them fail."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.failing: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; of a check, only look at what it is given."""
        if not _is_check(n):
            return super().run_node(n)
        (holds, _), _ = self.fetch_args_kwargs_from_env(n)
        if not holds:
            self.failing.append(n)
        return None


def _is_check(node: fx.Node) -> bool:
    return node.target is torch._assert


def _without(traced: Traced, needless: Checks) -> Traced:
    """The graph without these checks, in place, and with a note of it."""
    if not needless:
        return traced
    places = [str(n.args[1]).partition(" in ")[2].partition("; ")[0] for n in needless]
    for node in needless:
        traced.graph_module.graph.erase_node(node)
    traced.graph_module.recompile()
    kept = [note for note in traced.notes if not any(place in note for place in places)]
    notes = [
        f"both ways at {place} answer alike, so the graph goes one of them" for place in places
    ]
    return replace(traced, notes=(*kept, *sorted(set(notes))))
