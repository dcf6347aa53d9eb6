"""Compute in a floating-point type of fewer bits; inputs and outputs stay what they are."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from sepify.passes.base import Pass, Result


@dataclass(frozen=True)
class Cast(Pass):
    """Parameters and buffers in `dtype`, and so whatever is computed from them: a float32 input is
    cast behind its placeholder, the output of the network back to float32.

    Args:
        dtype: float16 or bfloat16; float32 changes nothing.
    """

    dtype: torch.dtype = torch.float32

    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Cast a copy."""
        made = copy.deepcopy(graph_module)
        if self.dtype == torch.float32:
            return Result(made, False)
        made.to(self.dtype)
        graph = made.graph
        for node in graph.find_nodes(op="placeholder"):
            readers = list(node.users)
            with graph.inserting_after(node):
                cast = graph.call_function(_to, (node, torch.float32, self.dtype))
            for reader in readers:
                reader.replace_input_with(node, cast)
        (output,) = graph.find_nodes(op="output")
        with graph.inserting_before(output):
            given = (output.args[0], self.dtype, torch.float32)
            output.args = (graph.call_function(_to, given),)
        made.recompile()
        return Result(made, True)


def _to(value: object, old: torch.dtype, new: torch.dtype) -> object:
    """`value` with the tensors of the type `old` among it in the type `new`."""

    def cast(leaf: object) -> object:
        return leaf.to(new) if isinstance(leaf, Tensor) and leaf.dtype == old else leaf

    return tree_map(cast, value)


fx.wrap("_to")
