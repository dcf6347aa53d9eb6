"""Return plain dicts where a network returns a dataclass that is a dict too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from sepify.passes.base import Condition, Pass, Result
from sepify.passes.conditions import PLAIN_OUTPUTS


@dataclass(frozen=True)
class PlainDictOutputs(Pass):
    """Dataclasses that are dicts too, which torch.jit.script cannot construct, become plain dicts
    without the fields that are None."""

    ensures: ClassVar[tuple[Condition, ...]] = (PLAIN_OUTPUTS,)
    in_place: ClassVar[bool] = True

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Rewrite `graph_module` itself; every site is rewritten."""
        before = len(graph_module.graph.nodes)
        for node in graph_module.graph.nodes:
            if isinstance(node.target, type) and issubclass(node.target, dict):
                fields = {name: value for name, value in node.kwargs.items() if value is not None}
                for user in list(node.users):
                    others = {given: given for given in user.all_input_nodes}
                    user.args = fx.map_arg(user.args, {**others, node: fields}.__getitem__)
        graph_module.graph.eliminate_dead_code()
        graph_module.recompile()
        return Result(graph_module, changed=len(graph_module.graph.nodes) < before)
