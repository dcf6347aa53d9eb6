"""Run the original and the converted network side by side, block by block, over all batches.

The converted network does not exist yet: it is made as the walk goes. At each convolution that is
to be separated, what the original puts out and what the converted one takes in are both at hand; a
solver looks at them, and its answer runs on. Only the values between blocks are kept for all
batches; inside a block one batch at a time is run, again for each convolution. That is cheap beside
the statistics, and bounds the memory by what lives at the cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sepify.calibration.batches import Batch
from sepify.calibration.blocks import Block, find_blocks
from sepify.factorize.factors import Factors
from sepify.passes.graph import called_module

Values = dict[fx.Node, Any]

# feed(inputs in the converted network, outputs of the original), both (B, ...)
Feed = Callable[[Tensor, Tensor], None]
# solver(name, conv, for_each_batch): calls for_each_batch(feed), and answers with factors
Solver = Callable[[str, nn.Conv2d, Callable[[Feed], None]], Factors]
# refiner(block, entries in the converted network, exits of the original, factors in the block)
Refiner = Callable[
    [Block, Sequence[Values], Sequence[Values], dict[str, Factors]], dict[str, Factors]
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
    together once all of them are solved.
    """
    interpreter = fx.Interpreter(original)
    blocks = find_blocks(original, names)
    needed = _needed_after(blocks)
    wanted = [_given(original, batch) for batch in batches]  # values of the original, a batch each
    actual = [dict(values) for values in wanted]  # values of the converted network
    solved: dict[str, Factors] = {}
    for block, later in zip(blocks, needed, strict=True):
        for name in block.names:
            conv = original.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            feeding = _feeding(interpreter, block, name, wanted, actual, solved)
            solved[name] = solver(name, conv, feeding)
        exits = [_advance(interpreter, block, values, {}, later) for values in wanted]
        if refiner is not None and block.names:
            inside = {name: solved[name] for name in block.names}
            solved.update(refiner(block, actual, exits, inside))
        for number, left in enumerate(exits):
            converted = left  # until the first separated convolution the networks are one
            if solved:
                converted = _advance(interpreter, block, actual[number], solved, later)
            wanted[number] = _kept({**wanted[number], **left}, later)
            actual[number] = _kept({**actual[number], **converted}, later)
    return solved


def run_block(
    interpreter: fx.Interpreter,
    block: Block,
    entered: Mapping[fx.Node, Any],
    factors: Mapping[str, Factors],
    until: fx.Node | None = None,
) -> Values:
    """The values inside `block` for one batch of values at its entries, with `factors` in place of
    the convolutions that they stand for; up to and with node `until`. Differentiable in factors."""
    values = dict(entered)
    for node in block.nodes:
        args = fx.map_arg(node.args, values.__getitem__)
        kwargs = fx.map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_module" and str(node.target) in factors:
            conv = called_module(interpreter.module, node)
            assert isinstance(conv, nn.Conv2d)
            value: Any = args[0] if args else kwargs["input"]
            values[node] = run_factors(factors[str(node.target)], conv, value)
        else:
            values[node] = getattr(interpreter, node.op)(node.target, args, kwargs)
        if node is until:
            break
    return values


def run_factors(factors: Factors, conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What the separable convolution gives for (B, M, H, W), as it will in the rewritten graph."""
    if factors.order == "dw-pw":
        return F.conv2d(_run_depthwise(factors, conv, x, None), factors.pointwise, factors.bias)
    return _run_depthwise(factors, conv, F.conv2d(x, factors.pointwise), factors.bias)


def _run_depthwise(factors: Factors, conv: nn.Conv2d, x: Tensor, bias: Tensor | None) -> Tensor:
    groups = conv.in_channels if factors.order == "dw-pw" else conv.out_channels
    padding: str | tuple[int, ...] | int = conv.padding
    if conv.padding_mode != "zeros":
        x = F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = 0
    return F.conv2d(x, factors.depthwise, bias, conv.stride, padding, conv.dilation, groups)


def _feeding(
    interpreter: fx.Interpreter,
    block: Block,
    name: str,
    wanted: Sequence[Values],
    actual: Sequence[Values],
    solved: Mapping[str, Factors],
) -> Callable[[Feed], None]:
    node = next(n for n in block.nodes if n.op == "call_module" and n.target == name)
    source = node.all_input_nodes[0]

    def for_each_batch(feed: Feed) -> None:
        for original, converted in zip(wanted, actual, strict=True):
            outputs = run_block(interpreter, block, original, {}, until=node)
            inputs = outputs
            if solved:
                before = block.nodes[block.nodes.index(node) - 1]
                inputs = run_block(interpreter, block, converted, solved, until=before)
            feed(inputs[source], outputs[node])

    return for_each_batch


def _advance(
    interpreter: fx.Interpreter,
    block: Block,
    entered: Values,
    factors: Mapping[str, Factors],
    later: set[fx.Node],
) -> Values:
    """The exits of `block`, for one batch."""
    values = run_block(interpreter, block, entered, factors)
    return {node: values[node] for node in block.exits if node in later}


def _given(original: fx.GraphModule, batch: Batch) -> Values:
    """The values of the placeholders; an optional input that is not given keeps its default."""
    inputs = [node for node in original.graph.nodes if node.op == "placeholder"]
    defaults = [node.args[0] if node.args else None for node in inputs]
    return dict(zip(inputs, [*batch, *defaults[len(batch) :]], strict=True))


def _kept(values: Values, later: set[fx.Node]) -> Values:
    return {node: value for node, value in values.items() if node in later}


def _needed_after(blocks: Sequence[Block]) -> list[set[fx.Node]]:
    """For each block, the values that a later one enters with, and its own exits if it is last."""
    needed: list[set[fx.Node]] = []
    later = set(blocks[-1].exits) if blocks else set()
    for block in reversed(blocks):
        needed.append(set(later))
        later |= set(block.entries)
    return needed[::-1]
