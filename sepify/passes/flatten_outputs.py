"""Return one tuple of tensors, whatever containers a network puts its outputs in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, fx
from torch.fx.node import map_aggregate

from sepify.errors import CompileError
from sepify.passes.base import Condition, Pass, Result
from sepify.passes.conditions import FLAT_OUTPUTS, PLAIN_OUTPUTS


@dataclass(frozen=True)
class FlattenOutputs(Pass):
    """The values in the containers that a network returns come in one tuple, in order, without
    those that are None.

    Args:
        example: what the network returned once; then only what is a tensor there is kept.

    Raises:
        CompileError: the graph returns another structure than `example`.
    """

    example: Any = field(default=None, repr=False)

    requires: ClassVar[tuple[Condition, ...]] = (PLAIN_OUTPUTS,)
    ensures: ClassVar[tuple[Condition, ...]] = (FLAT_OUTPUTS,)
    in_place: ClassVar[bool] = True

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Rewrite the output of `graph_module` itself."""
        (output,) = graph_module.graph.find_nodes(op="output")
        returned = _leaves(output.args[0])
        kept = [value is not None for value in returned]
        if self.example is not None:
            values = _leaves(self.example)
            if len(returned) != len(values):
                raise CompileError("the captured graph returns another structure than the model")
            kept = [isinstance(value, Tensor) for value in values]
        flat = (tuple(value for value, keep in zip(returned, kept, strict=True) if keep),)
        changed = output.args != flat
        output.args = flat
        before = len(graph_module.graph.nodes)
        graph_module.graph.eliminate_dead_code()
        graph_module.recompile()
        return Result(graph_module, changed or len(graph_module.graph.nodes) < before)


def _leaves(value: Any) -> list[Any]:
    found: list[Any] = []
    map_aggregate(_plain(value), found.append)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return value
