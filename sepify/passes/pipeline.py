"""Run passes one after another, and check after each that the graph is still sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from sepify.errors import PassError, SepifyError

Pass = Callable[[fx.GraphModule], fx.GraphModule]


@dataclass(frozen=True)
class Step:
    """A pass with its options bound, under the name that errors use."""

    name: str
    run: Pass


def run_passes(graph_module: fx.GraphModule, steps: Sequence[Step]) -> fx.GraphModule:
    """Apply `steps` in order. Every pass returns a new graph module and leaves its input alone.

    After each: the graph passes fx's lint, the inputs are those it had, and parameters are finite.
    Raises PassError naming the pass and those already run; a pass's own SepifyError goes through.
    """
    done: list[str] = []
    for step in steps:
        where = f"pass '{step.name}' (after {', '.join(done) or 'none'})"
        try:
            result = step.run(graph_module)
        except SepifyError:
            raise
        except Exception as error:
            raise PassError(f"{where} failed: {type(error).__name__}: {error}") from error
        _check(graph_module, result, where)
        graph_module = result
        done.append(step.name)
    return graph_module


def _check(before: fx.GraphModule, after: fx.GraphModule, where: str) -> None:
    try:
        after.graph.lint()
    except RuntimeError as error:
        raise PassError(f"{where} left a broken graph: {error}") from error
    if _inputs(before) != _inputs(after):
        raise PassError(f"{where} changed the inputs: {_inputs(before)} to {_inputs(after)}")
    for name, parameter in after.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            raise PassError(f"{where} left NaN or infinity in '{name}'")


def _inputs(graph_module: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph_module.graph.nodes if node.op == "placeholder"]
