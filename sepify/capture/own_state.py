"""Models that write in one call what they read in the next: a stream's past, a counter.

What most models write does not matter: a cache of the last size, a map kept to be looked at. It
matters if the model answers otherwise after a call than it does fresh. Then the graph must follow:
it is run call after call beside the model.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

from torch import Tensor, fx, nn

from sepify.graph.comparing import difference
from sepify.graph.copying import copy_module
from sepify.graph.inputs import Inputs, run_in_place
from sepify.graph.own_memory import Memory

JUMPS = (10, 100, 1000)  # calls: a counter may change the course after so many


@dataclass(frozen=True)
class OwnState:
    """What a model keeps from call to call, by name, and what it answers and holds call after
    call."""

    names: tuple[str, ...]
    calls: tuple[Inputs, ...]
    answers: tuple[Any, ...]
    buffers: dict[str, Tensor]  # after the last call, those in `names`
    counts: tuple[str, ...] = ()  # those in `names` that are numbers in Python

    def why_not(self, graph_module: fx.GraphModule, exact: bool) -> str | None:
        """How a graph answers otherwise, or is left in another state; None if it does not."""
        network = copy_module(graph_module)
        for number, (inputs, wanted) in enumerate(zip(self.calls, self.answers, strict=True), 1):
            try:
                told = difference(wanted, run_in_place(network, inputs), exact)
            except Exception as error:  # a graph that is not the model's can fail in any way
                told = f"it fails with {type(error).__name__}"
            if told is not None:
                return f"call {number} in a row: {told}"
        held = dict(network.named_buffers())
        for name, wanted in self.buffers.items():
            if name in held and difference(wanted, held[name], exact) is not None:
                return f"'{name}' holds something else after {len(self.calls)} calls"
        lost = next((name for name in self.counts if _found(network, name) is None), None)
        return None if lost is None else f"it does not count '{lost}'"


class Lender(Protocol):
    """What is asked of a `Reference` here: the model, its inputs, its answer, and a copy to run."""

    given: nn.Module
    inputs: Inputs
    expected: Any

    def lent(self, warm: bool = False) -> AbstractContextManager[nn.Module]:
        """Return the model as it was given or, if `warm`, as a run on the example leaves it."""


def own_state(reference: Lender, written: tuple[str, ...]) -> OwnState | None:
    """What the model keeps from call to call, if what it has `written` in a call matters."""
    if not written or not _matters(reference):
        return None
    calls = calls_of(reference.inputs)
    model = copy_module(reference.given)
    answers = tuple(run_in_place(model, inputs) for inputs in calls)
    buffers = {n: b.clone() for n, b in model.named_buffers() if n in written}
    counts = tuple(name for name in written if type(_found(model, name)) in (int, float))
    return OwnState(written, calls, answers, buffers, counts)


def _found(model: nn.Module, name: str) -> Any:
    try:
        return attrgetter(name)(model)
    except AttributeError:
        return None


def calls_of(inputs: Inputs) -> tuple[Inputs, ...]:
    """Four calls in a row to compare by, the last on the inputs of the first."""
    return (inputs, *_others(inputs), inputs)


def _matters(reference: Lender) -> bool:
    """Whether the model answers otherwise after a call than fresh."""
    first, second = _others(reference.inputs)
    with reference.lent(warm=True) as model:
        memory = Memory(model)
        after = run_in_place(model, first)
        goes_on = bool(memory.written(model))
    with reference.lent() as model:
        fresh = run_in_place(model, first)
    if difference(fresh, after, exact=True) is not None:
        return True
    if not goes_on:  # a cache: made in the first call
        return False
    with reference.lent() as model:
        for inputs in (reference.inputs, first, second):
            run_in_place(model, inputs)
        last = run_in_place(model, reference.inputs)
    if difference(reference.expected, last, exact=True) is not None:
        return True
    return any(_counts(reference, factor) for factor in JUMPS)


def _counts(reference: Lender, factor: int) -> bool:
    """Whether it answers otherwise when the numbers that a call changes are `factor` calls on."""
    with reference.lent() as model:
        memory = Memory(model)
        run_in_place(model, reference.inputs)
        memory.go_on(factor)
        try:
            answer = run_in_place(model, reference.inputs)
        except Exception:  # it refuses so many calls: then they matter
            return True
    return difference(reference.expected, answer, exact=True) is not None


def _others(inputs: Inputs) -> tuple[Inputs, Inputs]:
    """Two more inputs of the same shapes, of other contents where they are real numbers."""
    changed = tuple(x.flip(-1) * 0.9 + 0.1 if _is_real(x) else x for x in inputs)
    return changed, tuple(x.roll(1, -1) * -1.1 if _is_real(x) else x for x in inputs)


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 0
