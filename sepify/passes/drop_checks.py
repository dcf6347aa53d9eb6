"""Drop what a network asserts, and what is computed for that alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from sepify.graph.operators import is_in_place_name, operator_name
from sepify.passes.base import Condition, Pass, Result
from sepify.passes.conditions import WITHOUT_CHECKS


@dataclass(frozen=True)
class DropChecks(Pass):
    """Nothing is asserted any more by the model or its capture: it held for the example, sizes are
    fixed once compiled, and compiled code has no way to complain of contents."""

    ensures: ClassVar[tuple[Condition, ...]] = (WITHOUT_CHECKS,)
    in_place: ClassVar[bool] = True

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Rewrite `graph_module` itself; the sites are the checks and what only they read."""
        needless = list(graph_module.graph.find_nodes(op="call_function", target=torch._assert))
        changed = bool(needless)
        left_alone: dict[str, str] = {}
        while needless:
            node = needless.pop()
            read = node.all_input_nodes
            graph_module.graph.erase_node(node)
            for given in read:
                if given.users or not given.op.startswith("call"):
                    continue
                if is_in_place_name(operator_name(given.target)):
                    left_alone[given.name] = "it writes to what others may read"
                else:
                    needless.append(given)
        graph_module.recompile()
        return Result(graph_module, changed, left_alone)
