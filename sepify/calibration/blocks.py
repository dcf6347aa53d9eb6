"""Cut a graph where a single value carries everything on: the natural blocks of a network."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True)
class Block:
    """`nodes` compute `exit` (the last of them) from `entry` and stored tensors alone; `names` are
    the separated convolutions inside."""

    entry: fx.Node
    nodes: tuple[fx.Node, ...]
    names: tuple[str, ...]

    @property
    def exit(self) -> fx.Node:
        """The node whose value everything after the block is computed from."""
        return self.nodes[-1]


def find_blocks(graph_module: fx.GraphModule, names: Collection[str]) -> tuple[Block, ...]:
    """The blocks that hold at least one convolution in `names`, in execution order.

    Cuts are the nodes after which one value alone is live. A block starts at the cut before a
    separated convolution and reaches to the cut before the next one that begins a block: a
    residual block whole, or a convolution with its BatchNorm and activation in a plain chain. Every
    separated convolution up to the last cut is in exactly one block. A convolution that is called
    in several places is in none, and neither are those of its blocks.
    """
    nodes = [node for node in graph_module.graph.nodes if node.op != "output"]
    calls = [str(node.target) for node in nodes if node.op == "call_module"]
    blocks: list[Block] = []
    segment: list[fx.Node] = []
    entry: fx.Node | None = None
    for node, is_cut in zip(nodes, _cuts(graph_module), strict=True):
        if node.op == "placeholder":
            entry = node if is_cut else entry
            continue
        segment.append(node)
        if not is_cut:
            continue
        inside = tuple(n for n in map(str, (s.target for s in segment)) if n in names)
        once = all(calls.count(name) == 1 for name in inside)
        if entry is not None and inside and once:
            blocks.append(Block(entry, _with_stored(segment), inside))
        elif entry is not None and blocks and blocks[-1].exit is entry and not inside:
            last = blocks[-1]  # BatchNorm, activation, pooling: part of what went before
            blocks[-1] = Block(last.entry, (*last.nodes, *_with_stored(segment)), last.names)
        entry, segment = node, []
    return tuple(blocks)


def _with_stored(segment: list[fx.Node]) -> tuple[fx.Node, ...]:
    """`segment`, after the stored tensors that it reads but that are fetched before it."""
    read = {source: None for node in segment for source in node.all_input_nodes}
    stored = [node for node in read if node.op == "get_attr" and node not in segment]
    return (*stored, *segment)


def _cuts(graph_module: fx.GraphModule) -> list[bool]:
    """For each node but the output: is its value the only live one after it? Stored tensors
    (get_attr) do not count, wherever they are read."""
    nodes = list(graph_module.graph.nodes)
    position = {node: index for index, node in enumerate(nodes)}
    last_use = {
        node: max((position[user] for user in node.users), default=position[node])
        for node in nodes
        if node.op != "get_attr"
    }
    cuts = []
    for index, node in enumerate(nodes[:-1]):
        live = [n for n, last in last_use.items() if position[n] <= index < last]
        cuts.append(live == [node])
    return cuts
