"""What capturing gives, and the check that it answers as the model does."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from sepify.capture.comparing import difference
from sepify.capture.inputs import Inputs, describe, run_restored
from sepify.errors import CaptureError, first_line

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


def checked(captured: Captured, expected: object, inputs: Inputs | None) -> Captured:
    """`captured`, if it answers to `inputs` as `expected`; bit for bit where the front end records
    the model's own operators and they run on the CPU.

    Raises CaptureError saying how the answers differ.
    """
    if inputs is None:
        return captured
    exact = captured.front_end not in REORDERED and all(x.device.type == "cpu" for x in inputs)
    try:
        actual = run_restored(captured.graph_module, inputs)
    except Exception as error:  # a graph of the wrong branch can fail in any way
        told = f"it fails with: {first_line(error)}"
        raise CaptureError(_not_the_same(captured, inputs, told)) from error
    told_difference = difference(expected, actual, exact)
    if told_difference is not None:
        raise CaptureError(_not_the_same(captured, inputs, told_difference))
    return captured


def _not_the_same(captured: Captured, inputs: Inputs, told: str) -> str:
    notes = f" ({'; '.join(captured.notes)})" if captured.notes else ""
    return (
        f"the captured graph ({captured.front_end}) does not answer as the model does to "
        f"{describe(inputs)}: {told}{notes}; the model probably changes its own state, "
        "draws random numbers while it is traced, or relies on hooks"
    )
