"""Put a network into evaluation mode, without gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from sepify.passes.base import Condition, Pass, Result
from sepify.passes.conditions import EVALUATING, WITHOUT_GRADIENTS


@dataclass(frozen=True)
class Freeze(Pass):
    """Evaluation mode for every module, no gradient for any parameter: what is solved and planned
    on only looks at the network."""

    ensures: ClassVar[tuple[Condition, ...]] = (EVALUATING, WITHOUT_GRADIENTS)
    in_place: ClassVar[bool] = True

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Freeze `graph_module` itself."""
        frozen = all(condition.broken_at(graph_module) is None for condition in self.ensures)
        graph_module.eval().requires_grad_(False)
        return Result(graph_module, changed=not frozen)
