"""A graph that takes more sizes than the example's, where the model does.

A traced graph has a check for each question about sizes that decided its course, and refuses inputs
for which the answer is another. Three things set it free:

- Numbers stay variables where the model rounds them: `int(x.shape[2])` fixes nothing.
- It is traced at another, larger size first. What the model does there is more often right at the
  example than the other way round: resizing to the size that it has already, or computing the
  anchors that a detector remembers of its last image.
- Where a check fails at another size and the graph answers there as the model does, bit for bit,
  both ways are alike, and the check is dropped: cutting off a padding that is not there, say.

A graph that none of this sets free keeps its checks, and takes the sizes that they let pass.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cache, cached_property, partial
from typing import Any

import torch
from torch import fx, nn

from sepify.capture.reference import Reference
from sepify.capture.symbolic import Traced
from sepify.capture.symbolic_numbers import soft_numbers
from sepify.capture.tracer import CHECKED, value_trace
from sepify.errors import CaptureError
from sepify.graph.comparing import difference
from sepify.graph.inputs import PIXELS, Inputs, for_a_run, other_sizes, run_in_place, run_restored

Plain = Callable[[nn.Module], nn.Module]  # makes a copy of the model plain, in place
Checks = frozenset[fx.Node]


def trace_widely(plain: Plain, reference: Reference) -> Traced:
    """`value_trace` of the model in the first way that takes other sizes too, where the model
    itself does; of the plain way if there is none. Raises CaptureError as `value_trace` does."""
    tracing = _Tracing(plain, reference)
    refused = False
    for pixels in (PIXELS, sys.maxsize, 0):
        if pixels > PIXELS and not refused:  # twice the size is for models that want multiples
            continue
        sizes = other_sizes(reference.inputs, pixels, alone=not reference.training)
        ways = (_from_elsewhere, _as_it_is) if pixels else (_as_it_is, _from_elsewhere)
        for way in ways:
            found = way(tracing, *sizes)
            if found is not None:
                return found
        refused = tracing.answer(sizes[0]) is None
    return tracing.at_the_example


class _Tracing:
    """Traces a model at any size; which layers are left whole is found out once."""

    def __init__(self, plain: Plain, reference: Reference) -> None:
        self.plain = plain
        self.reference = reference
        self.answer = cache(reference.answer)  # of the model itself, by the inputs' identities
        self._settings: tuple[bool, frozenset[str]] | None = None

    @cached_property
    def at_the_example(self) -> Traced:
        """The graph of the example."""
        return self.at(self.reference.inputs)

    @cached_property
    def is_right(self) -> bool:
        """Whether it answers to the example as the model does: by what was computed while it was
        traced, or where noise made that something else, by a run."""
        expected, traced = self.reference.expected, self.at_the_example
        if self.reference.is_undoable and difference(expected, traced.answer, exact=True) is None:
            return True
        return bool(_answers(traced, self.reference.inputs, expected))

    def at(self, inputs: Inputs, warm: bool = False) -> Traced:
        """Traced with numbers that stay variables, or where that fails or leaves more layers whole,
        with Python's own; `warm` as `Reference.lent` says."""
        if self._settings is not None:
            with suppress(CaptureError):  # what served one size may not serve another
                return self._trace(inputs, warm, *self._settings)
        traced = self._trace_first(inputs, warm)
        self._settings = traced.soft, traced.leaves
        return traced

    def _trace_first(self, inputs: Inputs, warm: bool) -> Traced:
        softly = None
        try:
            softly = self._trace(inputs, warm, soft=True)
            if not softly.leaves:
                return softly
            plainly = self._trace(inputs, warm, soft=False)
        except CaptureError:
            if softly is not None:
                return softly
            if self._refuses(inputs):
                raise
            return self._trace(inputs, warm, soft=False)
        return plainly if len(plainly.leaves) < len(softly.leaves) else softly

    def _trace(
        self, inputs: Inputs, warm: bool, soft: bool, leaves: frozenset[str] = frozenset()
    ) -> Traced:
        with self.reference.lent(warm) as copied:
            model = self.plain(copied)
            with soft_numbers(model) if soft else nullcontext():
                traced = value_trace(model, inputs, leaves, partial(self._refuses, inputs))
        return replace(traced, soft=soft)

    def _refuses(self, inputs: Inputs) -> bool:
        return inputs is not self.reference.inputs and self.answer(inputs) is None


def _from_elsewhere(tracing: _Tracing, other: Inputs, third: Inputs) -> Traced | None:
    """The graph of another size, if it answers to the example as the model does; without the checks
    that fail for the example, as they do where the model remembers it."""
    reference = tracing.reference
    try:
        traced = tracing.at(other, warm=True)
    except CaptureError:  # the model may refuse that size
        return None
    right = _answers(traced, reference.inputs, reference.expected)
    if right is None:
        example = (reference.inputs, reference.expected)
        return _without_failing(traced, tracing, third, *example)
    if not right:
        return None
    if _has_checks(traced):
        wanted = tracing.answer(other)
        computed = difference(wanted, traced.answer, exact=True) is None
        if not computed and not _answers(traced, other, wanted):  # noise is not computed again
            return None
    return replace(traced, compared=True)


def _as_it_is(tracing: _Tracing, other: Inputs, third: Inputs) -> Traced | None:
    """The graph of the example, if nothing in it is checked or it answers to another size as the
    model does; without the checks that fail there. As it is, too, if it is wrong at the example."""
    traced = tracing.at_the_example
    if not _has_checks(traced) or not tracing.is_right:
        return traced
    wanted = tracing.answer(other)
    if wanted is None:
        return None
    right = _answers(traced, other, wanted)
    if right is None:
        return _without_failing(traced, tracing, third, other, wanted)
    return traced if right else None


def _has_checks(traced: Traced) -> bool:
    return any(map(_is_check, traced.graph_module.graph.nodes))


def _answers(traced: Traced, inputs: Inputs, expected: Any) -> bool | None:
    """Whether the graph answers as `expected`, bit for bit; None where a check of its own fails."""
    try:
        answer = run_restored(traced.graph_module, inputs)
    except Exception as error:  # operators refuse sizes with any exception
        return None if str(error).startswith(CHECKED) else False
    return difference(expected, answer, exact=True) is None


def _without_failing(
    traced: Traced, tracing: _Tracing, third: Inputs, inputs: Inputs, expected: Any
) -> Traced | None:
    """The graph without the checks that fail for `inputs`, if past them it answers as `expected`,
    and as the model does at a third size; where the model refuses that, nothing is asked of it."""
    failing = _failing(traced, inputs, expected)
    if failing is None:
        return None
    wanted = tracing.answer(third)
    if wanted is not None:
        still = _failing(traced, third, wanted)
        if still is None or not still <= failing:
            return None
    return _without(traced, failing)


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
