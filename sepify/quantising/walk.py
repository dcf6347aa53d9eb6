"""The quantised network beside the given one, layer by layer over the calibration images.

Each layer is made to give the given network's own maps, from the quantised maps that it will meet.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.calibration.replay import Paused, Walk, given_values
from sepify.graph.batches import Batch
from sepify.graph.grids import Grid, RoundedWeights
from sepify.graph.operators import operator_kind
from sepify.process.progress import Progress, silent
from sepify.quantising.layers import Fitted, Problem, fit
from sepify.quantising.movement import Movement
from sepify.quantising.recipe import Recipe
from sepify.quantising.scales import choose_grid, lattice, sample, widened
from sepify.quantising.sites import Layer, Sites, Value


@dataclass(frozen=True)
class Solved:
    """What the walk found: a grid for each rounded value, by the node's name; integers for each
    layer and the relative squared error of its output, by its path; how widely the map before it
    was scaled, where there was a choice; and the values that have channels of zeros alone, with
    their number."""

    grids: Mapping[str, Grid]
    layers: Mapping[str, Fitted]
    widenings: Mapping[str, float]
    dead: Mapping[str, int]


@torch.no_grad()
def quantise_in_step(
    network: fx.GraphModule,
    sites: Sites,
    batches: Sequence[Batch],
    recipe: Recipe,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Solved:
    """Grids and integers for all `sites` of `network`, in execution order.

    `network` must be in inference mode and free of in-place operations. Of the values that are kept
    between layers, those beyond `memory` bytes go to temporary files.
    """
    work = _Work(network, sites, batches, recipe, memory)
    tell = progress or silent
    for value in sites.values.values():
        if value.node.op == "placeholder":
            work.round_value(value)
    for at, node in enumerate(work.wanted.walk.nodes):
        if node in sites.layers:
            tell(f"quantising {node.target}", len(work.layers), len(sites.layers))
            work.quantise_layer(at, sites.layers[node])
        elif node in sites.values:
            work.advance(at + 1)
        if node in sites.values:
            work.round_value(sites.values[node])
    tell("quantising", len(sites.layers), len(sites.layers))
    return Solved(work.grids, work.layers, work.widenings, work.dead)


@dataclass
class _Work:
    """Both networks at the same node, and what was found so far."""

    network: fx.GraphModule
    sites: Sites
    batches: Sequence[Batch]
    recipe: Recipe
    memory: int | None
    grids: dict[str, Grid] = field(default_factory=dict)
    layers: dict[str, Fitted] = field(default_factory=dict)
    widenings: dict[str, float] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rounded = copy.deepcopy(self.network)
        room = None if self.memory is None else self.memory // (2 * len(self.batches))
        self.wanted, self.actual = (
            Paused(Walk(g, room), [given_values(g, batch) for batch in self.batches])
            for g in (self.network, rounded)
        )
        pairs = zip(self.network.graph.nodes, rounded.graph.nodes, strict=True)
        self.twins: dict[fx.Node, fx.Node] = dict(pairs)
        self.modules = rounded
        self.movement = Movement(rounded, self.actual.walk.interpreter)

    def advance(self, to: int) -> None:
        """Both run to before node `to`."""
        self.wanted.advance(to, {})
        self.actual.advance(to, {})

    def maps(self, node: fx.Node) -> list[Tensor]:
        """The value of a node of the given network in the quantised one."""
        return [values[self.twins[node]] for values in self.actual.values]

    def round_value(self, value: Value) -> None:
        """Find the grid of a value and round it, unless that waits for its reader."""
        maps = self.maps(value.node)
        grid = self._grid(value, maps)
        channels = torch.stack([m.movedim(value.axis, 0).flatten(1).abs().amax(1) for m in maps])
        silent_ones = int((channels.amax(0) == 0).sum())
        if silent_ones:
            self.dead[value.node.name] = silent_ones
        self.grids[value.node.name] = grid
        if value.reader is None or len(self.recipe.widenings()) == 1:
            self._put(value, grid)

    def _put(self, value: Value, grid: Grid) -> None:
        twin = self.twins[value.node]
        for values in self.actual.values:
            values[twin] = grid.round(values[twin])
        self.grids[value.node.name] = grid
        self.movement.note(twin, grid, self.actual.values[0][twin])

    def _grid(self, value: Value, maps: Sequence[Tensor]) -> Grid:
        if value.moved and self.recipe.channels:
            moved = self.movement.follow(self.twins[value.node], value.axis, self.actual.values[0])
            if moved is not None:
                return moved
        if not self.sites.layers.keys() & _before(value.node) and self.recipe.channels:
            levels = lattice(maps, value.axis)
            if levels is not None:
                return levels
        return choose_grid(maps, value.axis, self.recipe.clip, self.recipe.channels)

    def quantise_layer(self, at: int, layer: Layer) -> None:
        """Solve and round a layer, and run both networks past it."""
        given = layer.node.all_input_nodes[0]
        self.actual.advance(at, {})
        self.wanted.advance(at + 1, {})
        wanted = self._wanted(layer.node)
        value = self.sites.values[given]
        grid = self.grids[given.name]
        maps = self.maps(given)
        tries = [grid]
        if value.reader is layer.node and len(self.recipe.widenings()) > 1:
            tries = self._wider(grid, maps, layer)
        fitted: list[Fitted] = []
        for tried in tries:
            inputs = maps if len(tries) == 1 else [tried.round(part) for part in maps]
            needs_bias = layer.module.bias is not None or not layer.between
            problem = Problem(layer.module, inputs, wanted, layer.bits, needs_bias)
            fitted.append(fit(problem, tried.scales, self.recipe))
        best = min(range(len(tries)), key=lambda i: fitted[i].error)
        if len(tries) > 1:
            self.widenings[layer.name] = self.recipe.widenings()[best]
            self._put(value, tries[best])
        self.layers[layer.name] = fitted[best]
        self._install(layer, fitted[best].weights, tries[best])
        self.actual.advance(at + 1, {})

    def _wider(self, grid: Grid, maps: Sequence[Tensor], layer: Layer) -> list[Grid]:
        values = sample(maps, grid.axis)
        readers = layer.module.weight.detach().transpose(0, 1).flatten(1).norm(dim=1)
        return [
            Grid(widened(grid.scales, values.std(1), readers, by), grid.zero_points, grid.axis)
            for by in self.recipe.widenings()
        ]

    def _wanted(self, node: fx.Node) -> list[Tensor]:
        """What the layer ought to give: the given network's map; where that is added to what both
        networks know already, it makes up for what went wrong there."""
        wanted = [values[node] for values in self.wanted.values]
        users = list(node.users)
        if not self.recipe.solve or len(users) != 1:
            return wanted
        other = _added(users[0], node)
        if other is None or any(other not in values for values in self.wanted.values):
            return wanted
        twin = self.twins[other]
        if any(twin not in values for values in self.actual.values):
            return wanted
        made_up = []
        for y, true, made in zip(wanted, self.wanted.values, self.actual.values, strict=True):
            added = true[other]
            if not isinstance(added, Tensor) or added.shape != y.shape:
                return wanted
            made_up.append(y + (added - made[twin]))
        return made_up

    def _install(self, layer: Layer, weights: RoundedWeights, grid: Grid) -> None:
        module = self.modules.get_submodule(layer.name)
        assert isinstance(module, nn.Conv2d | nn.Linear)
        module.weight = nn.Parameter(weights.in_float(_along(layer.module, grid.scales)), False)
        module.bias = None if weights.bias is None else nn.Parameter(weights.bias, False)


def _along(layer: nn.Conv2d | nn.Linear, scales: Tensor) -> Tensor:
    """The scales (M,) of a layer's input, broadcastable to its weight."""
    if isinstance(layer, nn.Linear):
        return scales
    outputs, inside = layer.weight.shape[:2]
    each = scales.view(layer.groups, inside).repeat_interleave(outputs // layer.groups, 0)
    return each[:, :, None, None]


def _added(user: fx.Node, node: fx.Node) -> fx.Node | None:
    """What `user` adds to the value of `node`; None where it is no plain sum of two."""
    plain = operator_kind(user.target) == "addition" and not user.kwargs and len(user.args) == 2
    if user.op == "call_module" or not plain or "sub" in str(user.target):
        return None
    others = [arg for arg in user.args if arg is not node]
    return others[0] if len(others) == 1 and isinstance(others[0], fx.Node) else None


def _before(node: fx.Node) -> set[fx.Node]:
    """Every node that the value depends on."""
    found: set[fx.Node] = set()
    waiting: list[Any] = [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def values_of(network: fx.GraphModule, batch: Batch) -> dict[fx.Node, Any]:
    """The value of every node for one batch."""
    seen: dict[fx.Node, Any] = {}

    class Keeping(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            seen[n] = super().run_node(n)
            return seen[n]

    with torch.no_grad():
        Keeping(network).run(*batch)
    return seen
