"""Layers that were left whole: may another module take the place of a convolution inside?

A layer's own code calls its convolutions, and may also read their weights, their settings or their
class. So each is tried: with `nn.Sequential(conv)` where `conv` was, it must answer as before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx, nn

from sepify.errors import first_line
from sepify.graph.comparing import difference
from sepify.graph.copying import copy_to_run
from sepify.graph.inputs import Inputs, run, run_in_place
from sepify.graph.modules import OPAQUE, convolutions_inside, set_module


def mark_opaque_leaves(graph_module: fx.GraphModule, inputs: Inputs) -> None:
    """Note at each call of a layer why the convolutions inside it cannot be replaced, if so."""
    whole = {
        str(node.target): [name for name, _ in convolutions_inside(graph_module, node)]
        for node in graph_module.graph.nodes
        if node.op == "call_module"
    }
    whole = {leaf: names for leaf, names in whole.items() if names}
    if not whole:
        return
    expected = run(graph_module, inputs)
    if _why_not(graph_module, [n for names in whole.values() for n in names], inputs, expected):
        for leaf, names in whole.items():
            why = _why_not(graph_module, names, inputs, expected)
            for node in graph_module.graph.find_nodes(op="call_module", target=leaf) if why else ():
                node.meta[OPAQUE] = (
                    f"inside '{leaf}', which was left whole and does more with it than call it "
                    f"({why})"
                )


def _why_not(
    graph_module: fx.GraphModule, names: Iterable[str], inputs: Inputs, expected: Any
) -> str | None:
    trial = copy_to_run(graph_module)
    for name in names:
        set_module(trial, name, nn.Sequential(trial.get_submodule(name)))
    try:
        return difference(expected, run_in_place(trial, inputs), exact=True)
    except Exception as error:  # the layer's own code runs
        return first_line(error)
