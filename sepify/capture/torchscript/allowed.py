"""Which operators a script may call before it is run: those that a file may call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch

from sepify.capture.torchscript.source import source_line
from sepify.errors import CaptureError
from sepify.storage.archives.operators import NAMESPACES, OPTIMISER, why_refused


def require_operators(model: torch.jit.ScriptModule) -> None:
    """Raise CaptureError, naming the operator and the line, where running `model` would reach
    files, processes, the network or memory that is not its own.

    Files are refused by their code before they are loaded; this is the graph that will run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        graph = getattr(model, "inlined_graph", None)  # a model without forward has none
    for node in () if graph is None else _nodes(graph):
        namespace, _, name = node.kind().partition("::")
        why = why_refused(namespace, name) if namespace in NAMESPACES else None
        if why and why != OPTIMISER:  # whether that can be imported is asked later
            raise CaptureError(
                f"the model calls {node.kind()} ({source_line(node)}), which {why}; take it out, "
                "and save the model again"
            )


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)
