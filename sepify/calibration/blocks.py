"""Cut a graph into blocks, where as few values as possible carry on: what is solved, refined and
kept in memory goes block by block."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from torch import fx
from torch.nn.modules.batchnorm import _BatchNorm

from sepify.graph.modules import called_module
from sepify.graph.operators import module_kind, operator_kind, operator_name

# Refined together: four residual blocks, or four convolutions of a chain with what follows each.
# Two residual blocks are worse, six too, and so are eight convolutions of a chain (see
# benchmarks/README.md).
MOST_PARTS = 4
MOST_CONVOLUTIONS = 8  # separated ones, in any block
UNCUT = 4  # separated convolutions after which a part ends where there is no cut


@dataclass(frozen=True)
class Block:
    """`nodes` compute `exits` from `entries` and stored tensors alone; `names` are the separated
    convolutions that are first called inside. The block is the graph's nodes start to stop,
    placeholders and output not counted, and is made of `parts`, with no cut inside."""

    entries: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    exits: tuple[fx.Node, ...]
    names: tuple[str, ...]
    start: int
    stop: int
    parts: int


def computing_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that blocks are made of: all but placeholders and output."""
    return [node for node in graph.nodes if node.op not in ("placeholder", "output")]


def find_blocks(
    graph_module: fx.GraphModule, names: Collection[str], plain: Collection[fx.Node] = ()
) -> tuple[Block, ...]:
    """Blocks in execution order, from the inputs to the last that holds a convolution in `names`.
    The values of the nodes in `plain` are no tensors, such as sizes: they may live across any cut.

    A part begins at the last cut before a separated convolution, a cut being a place where a single
    value is live: a residual block, or a convolution with its BatchNorm and activation. Where no
    cut comes for four separated convolutions (a U-Net's skips), it ends where the fewest values are
    live. A block holds up to four parts, with eight separated convolutions at most. The last block
    ends with what belongs to its last convolution: behind a pooling or a classifier there is less
    to compare, and refinement would learn those few numbers by heart.
    """
    nodes = computing_nodes(graph_module.graph)
    live = _live_counts(graph_module, nodes, plain)
    first_calls = _first_calls(nodes, names)
    packed = _packed(_starts(nodes, live, sorted(first_calls)), sorted(first_calls))
    last = _own_end(graph_module, nodes, live, max(first_calls, default=0))
    ends = [*list(packed)[1:], last]
    blocks = []
    for (start, parts), end in zip(packed.items(), ends, strict=True):
        inside = tuple(first_calls[i] for i in range(start, end) if i in first_calls)
        blocks.append(_block(nodes, start, end, inside, parts))
    while blocks and not blocks[-1].names:
        blocks.pop()
    return tuple(blocks)


def _first_calls(nodes: Sequence[fx.Node], names: Collection[str]) -> dict[int, str]:
    calls: dict[str, int] = {}
    for index, node in enumerate(nodes):
        if node.op == "call_module" and str(node.target) in names:
            calls.setdefault(str(node.target), index)
    return {index: name for name, index in calls.items()}


def _starts(nodes: Sequence[fx.Node], live: Sequence[int], convs: Sequence[int]) -> list[int]:
    """Where the parts begin: at 0, and once at most between separated convolutions."""
    starts, since = [0], 0
    for previous, conv in zip([None, *convs], convs, strict=False):
        first = 0 if previous is None else previous + 1
        # a block that starts at i is cut after node i - 1
        places = range(max(first, starts[-1] + 1), conv + 1)
        cuts = [i for i in places if live[i - 1] == 1]
        if not cuts and since >= UNCUT and places:
            cuts = [min(places, key=lambda i: (live[i - 1], -i))]
        if cuts:
            starts.append(cuts[-1])
            since = 0
        since += 1
    return starts


def _own_end(
    graph_module: fx.GraphModule, nodes: Sequence[fx.Node], live: Sequence[int], conv: int
) -> int:
    """Behind the first cut after node `conv`, and the activations and normalisations that follow;
    the end of the graph where there is no cut."""
    end = next((i + 1 for i in range(conv, len(nodes)) if live[i] == 1), len(nodes))
    while end < len(nodes) and live[end] == 1 and _is_elementwise(graph_module, nodes[end]):
        end += 1
    return end


def _is_elementwise(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` is an activation or BatchNorm."""
    module = called_module(graph_module, node)
    if module is not None:
        return isinstance(module, _BatchNorm) or module_kind(module) == "activation"
    return operator_name(node.target) == "batch_norm" or operator_kind(node.target) == "activation"


def _packed(starts: Sequence[int], convs: Sequence[int]) -> dict[int, int]:
    """Where the blocks begin, and of how many parts with separated convolutions each is made."""
    counts = [
        bisect_left(convs, end) - bisect_left(convs, start)
        for start, end in pairwise([*starts, inf])
    ]
    packed: dict[int, int] = {}
    first = held = 0
    for start, count in zip(starts, counts, strict=True):
        if held and held + count <= MOST_CONVOLUTIONS and packed[first] < MOST_PARTS:
            held += count
            packed[first] += 1
            continue
        first, held = start, count
        packed[first] = 1
    return packed


def _block(
    every: Sequence[fx.Node], start: int, stop: int, names: tuple[str, ...], parts: int
) -> Block:
    nodes = every[start:stop]
    inside = set(nodes)
    read = dict.fromkeys(source for node in nodes for source in node.all_input_nodes)
    entries = [n for n in read if n not in inside and n.op != "get_attr"]
    stored = [n for n in read if n not in inside and n.op == "get_attr"]
    exits = [n for n in nodes if n.op != "get_attr" and set(n.users) - inside]
    return Block(tuple(entries), (*stored, *nodes), tuple(exits), names, start, stop, parts)


def _live_counts(
    graph_module: fx.GraphModule, nodes: Sequence[fx.Node], plain: Collection[fx.Node]
) -> list[int]:
    """After each of `nodes`: how many values are live. Stored tensors (get_attr) do not count, nor
    do values that are no tensors."""
    position = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    changes = [0] * (len(position) + 1)
    for node in position:
        if node.op in ("get_attr", "output") or node in plain:
            continue
        last = max((position[user] for user in node.users), default=position[node])
        changes[position[node]] += 1
        changes[last] -= 1
    counts, running = [], 0
    for change in changes:
        running += change
        counts.append(running)
    return [counts[position[node]] for node in nodes]
