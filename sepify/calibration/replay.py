"""Run the original and the converted network side by side, pausing where they meet.

The converted network does not exist yet: it is made as the walk goes. At each convolution that is
to be separated, what the original puts out and what the converted one takes in are both at hand; a
solver looks at them, and its answer runs on. Every node runs once for each batch and network (the
converted one's twice where blocks are refined), and a value is dropped once its last user has run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.calibration.blocks import Block, computing_nodes, find_blocks
from sepify.calibration.following import Following, Values, follow
from sepify.factorize.factors import Factors, run_factors_fast
from sepify.graph.batches import Batch
from sepify.graph.modules import called_module
from sepify.storage.tensors import is_on_disk, on_disk

UNUSED = 10**9  # last use of a value that nobody reads: a solver may yet ask for it
# feed(inputs in the converted network, outputs of the original), both (B, ...)
Feed = Callable[[Tensor, Tensor], None]
# solver(name, conv, for_each_batch): calls for_each_batch(feed), and answers with factors
Solver = Callable[[str, nn.Conv2d, Callable[[Feed], None]], Factors]
# refiner(block, what it is refined on, factors in the block)
Refiner = Callable[[Block, "Edges", dict[str, Factors]], dict[str, Factors]]


@dataclass(frozen=True)
class Edges:
    """The values at a block's entries in the converted network and at its exits in the original, a
    batch each, and how they follow the images."""

    entered: Sequence[Values]
    wanted: Sequence[Values]
    following: Following


@torch.no_grad()
def solve_in_step(
    original: fx.GraphModule,
    names: Sequence[str],
    batches: Sequence[Batch],
    solver: Solver,
    refiner: Refiner | None = None,
    memory: int | None = None,
) -> dict[str, Factors]:
    """Factors for each convolution in `names`, found in execution order.

    `original` must be in inference mode and free of in-place operations. A convolution called in
    several places is solved at its first. With a `refiner`, the factors of each block are improved
    together once all of them are solved. Of the values that are kept between layers, those beyond
    `memory` bytes go to temporary files.
    """
    walk = Walk(original, None if memory is None else memory // (2 * len(batches)))
    wanted = Paused(walk, [given_values(original, batch) for batch in batches])  # in the original
    actual = wanted  # in the converted network; one and the same until something is separated
    solved: dict[str, Factors] = {}
    following = None
    blocks = find_blocks(original, names)
    if refiner is not None:
        blocks, following = follow(original, batches, names)
    for block in blocks:
        inside: dict[str, Factors] = {}
        entered: Paused | None = None
        for name in block.names:
            at = walk.position(name, block)
            if actual is wanted:
                wanted.advance(block.start if refiner is not None else at, {})
                actual = wanted.copy()
            if entered is None and refiner is not None:
                actual.advance(block.start, solved)
                entered = actual.copy()
            wanted.advance(at + 1, {})
            actual.advance(at, solved)
            conv = original.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            inside[name] = solver(name, conv, _feeding(walk.nodes[at], wanted, actual))
            solved[name] = inside[name]
        if refiner is not None and following is not None and entered is not None:
            wanted.advance(block.stop, {})
            exits = [_only(block.exits, values) for values in wanted.values]
            entries = [_only(block.entries, values) for values in entered.values]
            solved.update(refiner(block, Edges(entries, exits, following), inside))
            actual = entered
    return solved


class Walk:
    """The nodes of a graph in order, and how long the value of each is needed."""

    def __init__(self, graph_module: fx.GraphModule, room: int | None) -> None:
        self.room = room  # bytes for the values of one batch in one network
        self.interpreter = fx.Interpreter(graph_module)
        self.nodes = computing_nodes(graph_module.graph)
        order = {node: index for index, node in enumerate(self.nodes)}
        self.last_use = {
            node: max((order.get(user, len(self.nodes)) for user in node.users), default=UNUSED)
            for node in graph_module.graph.nodes
        }

    def position(self, name: str, block: Block) -> int:
        """Where the module at path `name`, which is inside `block`, is first called."""
        for index in range(block.start, block.stop):
            if self.nodes[index].op == "call_module" and self.nodes[index].target == name:
                return index
        raise LookupError(f"'{name}' is not called in its block")

    def run(self, values: Values, start: int, stop: int, factors: Mapping[str, Factors]) -> Values:
        """What is needed after nodes start to stop, from what is needed before them."""
        values = dict(values)
        for index in range(start, stop):
            node = self.nodes[index]
            values[node] = run_node(self.interpreter, node, values, factors)
            for used in (node, *node.all_input_nodes):
                if self.last_use[used] <= index:
                    values.pop(used, None)
        return values if self.room is None else _within(self.room, values)


class Paused:
    """A network that stands before the node numbered `at`, with its values for every batch."""

    def __init__(self, walk: Walk, values: list[Values], at: int = 0) -> None:
        self.walk, self.values, self.at = walk, values, at

    def advance(self, to: int, factors: Mapping[str, Factors]) -> None:
        """Run to before node `to`, with `factors` in place of what they stand for."""
        for number, values in enumerate(self.values):
            self.values[number] = self.walk.run(values, self.at, to, factors)
        self.at = max(self.at, to)

    def copy(self) -> Paused:
        """Another one at the same place; the tensors are shared, nobody writes into them."""
        return Paused(self.walk, list(self.values), self.at)


def run_block(
    interpreter: fx.Interpreter,
    block: Block,
    entered: Mapping[fx.Node, Any],
    factors: Mapping[str, Factors],
) -> Values:
    """The values inside `block` for one batch of values at its entries, with `factors` in place of
    the convolutions that they stand for. Differentiable in the factors."""
    values = dict(entered)
    for node in block.nodes:
        values[node] = run_node(interpreter, node, values, factors)
    return values


def run_node(
    interpreter: fx.Interpreter,
    node: fx.Node,
    values: Mapping[fx.Node, Any],
    factors: Mapping[str, Factors],
) -> Any:
    """The value of one node, given those before it."""
    args = fx.map_arg(node.args, values.__getitem__)
    kwargs = fx.map_arg(node.kwargs, values.__getitem__)
    if node.op == "call_module" and str(node.target) in factors:
        conv = called_module(interpreter.module, node)
        assert isinstance(conv, nn.Conv2d)
        value: Any = args[0] if args else kwargs["input"]
        return run_factors_fast(factors[str(node.target)], conv, value)
    return getattr(interpreter, node.op)(node.target, args, kwargs)


def _feeding(node: fx.Node, wanted: Paused, actual: Paused) -> Callable[[Feed], None]:
    source = node.all_input_nodes[0]

    def for_each_batch(feed: Feed) -> None:
        for original, converted in zip(wanted.values, actual.values, strict=True):
            feed(converted[source], original[node])

    return for_each_batch


def _within(room: int, values: Values) -> Values:
    """`values` with the tensors that do not fit into `room` bytes moved to temporary files. What is
    on another device than the CPU stays there."""
    kept = dict(values)
    for node, value in values.items():
        if isinstance(value, Tensor) and value.is_cpu and not is_on_disk(value):
            room -= value.numel() * value.element_size()
            kept[node] = value if room >= 0 else on_disk(value)
    return kept


def given_values(original: fx.GraphModule, batch: Batch) -> Values:
    """The values of the placeholders; an optional input that is not given keeps its default."""
    inputs = [node for node in original.graph.nodes if node.op == "placeholder"]
    defaults = [node.args[0] if node.args else None for node in inputs]
    return dict(zip(inputs, [*batch, *defaults[len(batch) :]], strict=True))


def _only(nodes: Sequence[fx.Node], values: Values) -> Values:
    return {node: values[node] for node in nodes}
