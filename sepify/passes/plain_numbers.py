"""Compute with sizes by Python's own functions in the place of torch's symbolic ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from sepify.passes.base import Pass, Result

_PLAIN: dict[Any, Any] = {torch.sym_max: max, torch.sym_min: min}


@dataclass(frozen=True)
class PlainNumbers(Pass):
    """max and min of sizes are Python's: torch's symbolic ones are known neither to the compiler of
    TorchScript nor to a trace, where sizes are tensors."""

    in_place: ClassVar[bool] = True

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Rewrite `graph_module` itself; every site is rewritten."""
        changed = False
        for node in graph_module.graph.nodes:
            if node.op == "call_function" and node.target in _PLAIN:
                node.target = _PLAIN[node.target]
                changed = True
        graph_module.recompile()
        return Result(graph_module, changed)
