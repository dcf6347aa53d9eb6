"""What capturing gives, and the check that it answers as the model does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from sepify.capture.own_state import OwnState
from sepify.errors import CaptureError, UsageError, first_line
from sepify.graph.comparing import difference
from sepify.graph.inputs import Inputs, describe, run_restored

REORDERED = ("torchscript", "torch-export")
"""Front ends that may compute the same by other operators; the others give the same bits."""


@dataclass(frozen=True)
class Captured:
    """A model as a graph, and how it became one.

    The graph module is a fresh copy that shares nothing with the model it came from. Its
    convolutions are nn.Conv2d call_module nodes under their original names, except those whose
    weight is computed or shared with something else.
    """

    graph_module: fx.GraphModule
    # "graph-module", "symbolic-trace", "value-tracer", "torch-export" or "torchscript"
    front_end: str
    reason: str  # one sentence: why this front end
    notes: tuple[str, ...]  # what was assumed, dropped, folded or renamed, a sentence each
    keeps: tuple[str, ...] = ()  # what it writes in one call and reads in the next, by name

    def require_no_state(self, what: str) -> None:
        """Raise UsageError if the network keeps anything from call to call, which `what`, a work
        that shows it images in any order, has no place for."""
        if self.keeps:
            raise UsageError(f"{what}: {_keeping(self.keeps)}")

    def require_no_hidden_state(self, what: str) -> None:
        """The same for what layers keep that were left whole, which the graph does not show."""
        layers = [
            str(node.target)
            for node in self.graph_module.graph.find_nodes(op="call_module")
            if not type(self.graph_module.get_submodule(node.target)).__module__.startswith("torch")
        ]
        hidden = tuple(n for n in self.keeps if any(n.startswith(f"{at}.") for at in layers))
        if hidden:
            raise UsageError(f"{what}: {_keeping(hidden)}, inside a layer that was left whole")


def _keeping(names: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{name}'" for name in names)
    return f"the network writes to {listed} in one call and reads it in the next"


def checked(
    captured: Captured, expected: object, inputs: Inputs | None, own: OwnState | None = None
) -> Captured:
    """`captured`, if it answers to `inputs` as `expected`, and call after call as a model with a
    state of its `own`; bit for bit where the front end records the model's own operators and they
    run on the CPU.

    Raises CaptureError saying how the answers differ.
    """
    if inputs is None:
        return captured
    exact = _is_exact(captured, inputs)
    try:
        actual = run_restored(captured.graph_module, inputs)
    except Exception as error:  # a graph of the wrong branch can fail in any way
        told = f"it fails with: {first_line(error)}"
        raise CaptureError(_not_the_same(captured, inputs, told)) from error
    told_difference = difference(expected, actual, exact)
    if told_difference is not None:
        raise CaptureError(_not_the_same(captured, inputs, told_difference))
    return following(captured, inputs, own)


def following(captured: Captured, inputs: Inputs, own: OwnState | None) -> Captured:
    """`captured`, if it keeps from call to call what the model does. Raises CaptureError."""
    if own is None:
        return captured
    told = own.why_not(captured.graph_module, _is_exact(captured, inputs))
    if told is not None:
        names = ", ".join(f"'{name}'" for name in own.names)
        raise CaptureError(
            f"the model writes to {names} in one call and reads it in the next, which the captured "
            f"graph ({captured.front_end}) does not ({told}); keep such state in registered "
            "buffers, or outside of the model: state in, state out"
        )
    return replace(captured, keeps=own.names)


def _is_exact(captured: Captured, inputs: Inputs) -> bool:
    return captured.front_end not in REORDERED and all(x.device.type == "cpu" for x in inputs)


def _not_the_same(captured: Captured, inputs: Inputs, told: str) -> str:
    notes = f" ({'; '.join(captured.notes)})" if captured.notes else ""
    return (
        f"the captured graph ({captured.front_end}) does not answer as the model does to "
        f"{describe(inputs)}: {told}{notes}; the model probably changes its own state, "
        "draws random numbers while it is traced, or relies on hooks"
    )
