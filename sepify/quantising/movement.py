"""Scales follow values that are only moved: pooled by maxima, padded, cut, joined, reshaped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from sepify.graph.grids import Grid
from sepify.graph.modules import called_module
from sepify.graph.operators import operator_name
from sepify.quantising.sites import MOVING


class Movement:
    """Where the grids of earlier values went.

    An operator that moves values is run on maps that hold, at each place, the scale and the zero
    point of the value there; what comes out says how its output is scaled.
    """

    def __init__(self, graph_module: fx.GraphModule, interpreter: fx.Interpreter) -> None:
        self.graph_module, self.interpreter = graph_module, interpreter
        self.known: dict[fx.Node, tuple[Any, Any] | None] = {}

    def note(self, node: fx.Node, grid: Grid, value: Tensor) -> None:
        """The value of `node` lies on `grid`."""
        shape = [1] * value.dim()
        shape[grid.axis] = -1
        maps = (grid.scales, grid.zero_points.float())
        scales, zeros = (part.view(shape).expand_as(value) for part in maps)
        self.known[node] = scales, zeros

    def follow(self, node: fx.Node, axis: int, values: dict[fx.Node, Any]) -> Grid | None:
        """The grid that the value of `node` lies on, channels along `axis`; None where it was not
        only moved, or its channels have no grid of their own. `values` are those of one batch."""
        maps = self._maps(node, values)
        if maps is None or not all(isinstance(part, Tensor) for part in maps):
            return None
        scales, zeros = (part.movedim(axis, 0).flatten(1) for part in maps)
        padded = scales == 0  # zeros, which every grid has
        low = torch.where(padded, torch.inf, scales).amin(1)
        high = scales.amax(1)
        filled = high > 0
        if not bool(filled.any()) or not torch.equal(low[filled], high[filled]):
            return None
        codes = zeros[~padded].unique()
        if len(codes) != 1:
            return None
        scales = torch.where(filled, high, high[filled].median())
        return Grid(scales, torch.full(scales.shape, int(codes[0]), device=scales.device), axis)

    def _maps(self, node: fx.Node, values: dict[fx.Node, Any]) -> tuple[Any, Any] | None:
        if node not in self.known:
            self.known[node] = self._moved(node, values)
        return self.known[node]

    def _moved(self, node: fx.Node, values: dict[fx.Node, Any]) -> tuple[Any, Any] | None:
        module = called_module(self.graph_module, node)
        name = type(module).__name__ if module is not None else operator_name(node.target)
        if name not in MOVING or not node.op.startswith("call"):
            return None
        given: list[dict[fx.Node, Any]] = [{}, {}]
        for source in node.all_input_nodes:
            maps = self._maps(source, values)
            plain = source in values and not _holds_tensors(values[source])
            if maps is None and not plain:
                return None
            for which in (0, 1):
                given[which][source] = values[source] if maps is None else maps[which]
        try:
            made = [self._run(node, each) for each in given]
        except RuntimeError:  # an operator that takes no maps of one value, or an overlapping view
            return None
        return made[0], made[1]

    def _run(self, node: fx.Node, given: dict[fx.Node, Any]) -> Any:
        args = fx.map_arg(node.args, given.__getitem__)
        kwargs = fx.map_arg(node.kwargs, given.__getitem__)
        return getattr(self.interpreter, node.op)(node.target, args, kwargs)


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
