"""Run the original and the converted network side by side, one node at a time, over all batches.

The converted network does not exist yet: it is made as the walk goes. At each convolution that is
to be separated, what the original puts out and what the converted one takes in are both at hand;
a solver looks at them, and its answer runs on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sepify.calibration.batches import Batch
from sepify.calibration.blocks import Block, find_blocks
from sepify.factorize.factors import Factors
from sepify.passes.graph import called_module

# solver(name, conv, inputs in the converted network, outputs of the original), a tensor a batch
Solver = Callable[[str, nn.Conv2d, Sequence[Tensor], Sequence[Tensor]], Factors]

# refiner(block, inputs in the converted network, outputs of the original, factors in the block)
Refiner = Callable[
    [Block, Sequence[Tensor], Sequence[Tensor], dict[str, Factors]], dict[str, Factors]
]


@torch.no_grad()
def solve_in_step(
    original: fx.GraphModule,
    names: Sequence[str],
    batches: Sequence[Batch],
    solver: Solver,
    refiner: Refiner | None = None,
) -> dict[str, Factors]:
    """Factors for each convolution in `names`, found in execution order.

    `original` must be in inference mode and free of in-place operations. A convolution called in
    several places is solved at its first. With a `refiner`, the factors of each block are improved
    together once all of them are solved. A value is freed when its last user has run; until the
    first separated convolution both networks share every value.
    """
    walk = _Walk(original, batches, solver, frozenset(names))
    blocks = {block.exit: block for block in find_blocks(original, names)} if refiner else {}
    for node in original.graph.nodes:
        if node.op == "output":
            break
        walk.run(node, keep={block.entry for block in blocks.values()})
        block = blocks.pop(node, None)
        if block is not None and refiner is not None:
            walk.refine(block, refiner)
    return walk.solved


class _Walk:
    """Where both networks stand: the live values of each, a list of one a batch for each node."""

    def __init__(
        self,
        original: fx.GraphModule,
        batches: Sequence[Batch],
        solver: Solver,
        names: frozenset[str],
    ) -> None:
        self.original = original
        self.batches = batches
        self.solver = solver
        self.names = names
        self.interpreter = fx.Interpreter(original)
        self.last_use = _last_users(original)
        self.wanted: dict[fx.Node, list[Any]] = {}  # values in the original
        self.actual: dict[fx.Node, list[Any]] = {}  # values in the converted network
        self.solved: dict[str, Factors] = {}
        self.inputs = [node for node in original.graph.nodes if node.op == "placeholder"]

    def run(self, node: fx.Node, keep: set[fx.Node]) -> None:
        """Run `node` in both networks, and free what only it still needed, but for `keep`."""
        if node.op == "placeholder":
            self.wanted[node] = self.actual[node] = self._given(node)
        else:
            self._run_both(node)
        if node.op == "call_module" and str(node.target) in self.names:
            self._separate(node)
        for dead in self.last_use.get(node, ()):
            if dead not in keep:
                del self.wanted[dead], self.actual[dead]

    def refine(self, block: Block, refiner: Refiner) -> None:
        """Let `refiner` improve the factors of `block`, and run the block again with its answer."""
        inside = {name: self.solved[name] for name in block.names}
        entered = self.actual[block.entry]
        self.solved.update(refiner(block, entered, self.wanted[block.exit], inside))
        self.actual[block.exit] = [
            run_block(self.interpreter, block, value, self.solved) for value in entered
        ]
        del self.wanted[block.entry], self.actual[block.entry]  # kept for this alone

    def _given(self, node: fx.Node) -> list[Any]:
        position = self.inputs.index(node)
        if position < len(self.batches[0]):
            return [batch[position] for batch in self.batches]
        default = node.args[0] if node.args else None  # an optional input that is not given
        return [default] * len(self.batches)

    def _run_both(self, node: fx.Node) -> None:
        """On every batch in both networks; once, where all its inputs are still shared."""
        run = getattr(self.interpreter, node.op)
        count = len(self.batches)
        shared = all(self.wanted[s] is self.actual[s] for s in node.all_input_nodes)
        if not shared and node.target is operator.setitem:  # the networks part in this value too
            written = node.all_input_nodes[0]
            self.actual[written] = [value.clone() for value in self.actual[written]]
        self.wanted[node] = [
            run(node.target, *_arguments(node, self.wanted, b)) for b in range(count)
        ]
        self.actual[node] = self.wanted[node]
        if not shared:
            self.actual[node] = [
                run(node.target, *_arguments(node, self.actual, b)) for b in range(count)
            ]

    def _separate(self, node: fx.Node) -> None:
        """Solve the convolution that `node` calls, unless that is done, and run on its factors."""
        name = str(node.target)
        conv = called_module(self.original, node)
        assert isinstance(conv, nn.Conv2d)
        entered = self.actual[node.all_input_nodes[0]]
        if name not in self.solved:
            self.solved[name] = self.solver(name, conv, entered, self.wanted[node])
        self.actual[node] = [run_factors(self.solved[name], conv, x) for x in entered]


def run_block(
    interpreter: fx.Interpreter, block: Block, entered: Any, factors: Mapping[str, Factors]
) -> Any:
    """The value at the exit of `block` for the value at its entry, with `factors` in place of the
    convolutions that they stand for. Differentiable in the factors."""
    values = {block.entry: [entered]}
    for node in block.nodes:
        args, kwargs = _arguments(node, values, 0)
        if node.op == "call_module" and str(node.target) in factors:
            conv = called_module(interpreter.module, node)  # type: ignore[arg-type]
            assert isinstance(conv, nn.Conv2d)
            value = args[0] if args else kwargs["input"]
            values[node] = [run_factors(factors[str(node.target)], conv, value)]
        else:
            values[node] = [getattr(interpreter, node.op)(node.target, args, kwargs)]
    return values[block.exit][0]


def run_factors(factors: Factors, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What the separable convolution gives for (B, M, H, W), as it will in the rewritten graph."""
    if factors.order == "dw-pw":
        return F.conv2d(_run_depthwise(factors, conv, x, None), factors.pointwise, factors.bias)
    return _run_depthwise(factors, conv, F.conv2d(x, factors.pointwise), factors.bias)


def _run_depthwise(factors: Factors, conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    groups = conv.in_channels if factors.order == "dw-pw" else conv.out_channels
    padding = conv.padding
    if conv.padding_mode != "zeros":
        x = F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = 0
    return F.conv2d(x, factors.depthwise, bias, conv.stride, padding, conv.dilation, groups)


def _arguments(node: fx.Node, values: dict[fx.Node, list[Any]], batch: int) -> tuple[Any, Any]:
    def pick(source: fx.Node) -> Any:
        return values[source][batch]

    return fx.map_arg(node.args, pick), fx.map_arg(node.kwargs, pick)


def _last_users(graph_module: fx.GraphModule) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the values that nobody needs after it."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph_module.graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                last.pop(source, None)
            continue
        for source in node.all_input_nodes:
            last[source] = node
        last.setdefault(node, node)
    freed: dict[fx.Node, list[fx.Node]] = {}
    for source, user in last.items():
        freed.setdefault(user, []).append(source)
    return freed
