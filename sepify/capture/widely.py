"""A graph that takes more sizes than the one it was traced at, where the first does not.

A size may be fixed without need, by `int(x.shape[2])`: it is traced anew with numbers that stay
variables. Or the model remembers: a detector keeps the anchors of the last image size, and asks
first. Once run, it is traced along the short way, which is right for one size alone. Traced at
another size, it takes the way that computes everything, and what it asked becomes a check that
fails at the size that it remembers. Where the long way answers there as well, bit for bit, the
question was only about saving time, and the check is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import fx, nn

from sepify.capture.comparing import difference
from sepify.capture.copying import copy_to_run
from sepify.capture.inputs import Inputs, enlarged, run_in_place, run_restored
from sepify.capture.soft_numbers import soft_numbers
from sepify.capture.symbolic import Traced
from sepify.capture.tracer import value_trace
from sepify.errors import CaptureError


def trace_widely(model: nn.Module, inputs: Inputs, fresh: Callable[[], nn.Module]) -> Traced:
    """`value_trace` of `model`, which may be left changed, or of a copy of it (`fresh`), in the
    first way that takes larger inputs too, where the model itself does; of the plain way if none.
    Raises CaptureError as `value_trace` does."""
    traced = value_trace(model, inputs)
    if not any(map(_is_check, traced.graph_module.graph.nodes)):
        return traced
    if not any(module.training for module in model.modules()):  # statistics would move
        fresh = partial(_warm, fresh, inputs)
        traced = value_trace(fresh(), inputs, traced.leaves)

    def traced_at(at: Inputs, soft: bool) -> Traced | None:
        return _traced_at(fresh(), at, soft, inputs, traced.leaves)

    soft_here = cache(partial(traced_at, inputs, True))  # the same for both kinds of larger
    for images_too in (True, False):
        larger = enlarged(inputs, images_too)
        expected = _answer(fresh, larger)
        if expected is None:
            continue
        if _agrees(traced.graph_module, larger, expected):
            return traced
        largest = enlarged(larger, images_too)
        others: list[tuple[Inputs, Any]] = []
        for way in (soft_here, partial(traced_at, larger, False), partial(traced_at, larger, True)):
            wider = way()
            if wider is None or not _agrees(wider.graph_module, larger, expected):
                continue
            others = others or [(x, _answer(fresh, x)) for x in (inputs, largest)]
            if all(y is None or _agrees(wider.graph_module, x, y) for x, y in others):
                return wider
    return traced


def _warm(fresh: Callable[[], nn.Module], inputs: Inputs) -> nn.Module:
    """A copy that remembers the example, whatever the model ran on before."""
    model = fresh()
    run_in_place(model, inputs)
    return model


def _traced_at(
    model: nn.Module, inputs: Inputs, soft: bool, remembered: Inputs, leaves: frozenset[str]
) -> Traced | None:
    """Traced along `inputs`, without the checks that fail for `remembered`; None if that fails."""
    try:
        with soft_numbers(model) if soft else nullcontext():
            traced = value_trace(model, inputs, leaves)
    except CaptureError:
        return None
    graph_module = traced.graph_module
    failing = _FailingChecks(copy_to_run(graph_module))
    try:
        failing.run(*[x.clone() for x in remembered])
    except Exception:  # operators refuse sizes with any exception
        return None
    if not failing.found:
        return traced
    for node in failing.found:
        graph_module.graph.erase_node(node)
    graph_module.recompile()
    dropped = [str(node.args[1]).partition(" in ")[2].partition("; ")[0] for node in failing.found]
    kept = [note for note in traced.notes if not any(place in note for place in dropped)]
    notes = [
        f"both ways at {place} answer alike, so the graph goes one of them" for place in dropped
    ]
    return replace(traced, notes=(*kept, *dict.fromkeys(notes)))


class _FailingChecks(fx.Interpreter):
    """Runs a graph past its checks, and notes which of them fail."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.found: list[fx.Node] = []

    def run_node(self, n: fx.Node) -> Any:
        """Run a node; of a check, only look at what it is given."""
        if not _is_check(n):
            return super().run_node(n)
        (holds, _), _ = self.fetch_args_kwargs_from_env(n)
        if not holds:
            self.found.append(n)
        return None


def _is_check(node: fx.Node) -> bool:
    return node.target is torch._assert


def _answer(fresh: Callable[[], nn.Module], inputs: Inputs) -> Any:
    """What the model answers; None where it refuses these sizes."""
    try:
        return run_in_place(fresh(), inputs)
    except Exception:  # a model may refuse with any exception
        return None


def _agrees(graph_module: fx.GraphModule, inputs: Inputs, expected: Any) -> bool:
    try:
        actual = run_restored(graph_module, inputs)
    except Exception:  # a check that fails, or an operator that refuses the sizes
        return False
    return difference(expected, actual, exact=True) is None
