"""How the values between blocks follow the images: what a value would be for any few of them.

Refinement runs blocks on mini-batches that are picked from the calibration images. For a map that
is taking rows; a size, a shape or another number follows from how many images there are; a table or
a string stays what it is. Which of them a value is, is found out by running the network on two
images and on three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from sepify.calibration.blocks import Block, find_blocks
from sepify.errors import first_line
from sepify.graph.batches import Batch
from sepify.graph.inputs import restored_buffers

Values = dict[fx.Node, Any]

FEW, MORE = (0, 1), (1, 0, 2)  # images that the network is tried on, in this order
TOLERANCE = 1e-3  # of a map's largest value: kernels sum otherwise for other batches


@dataclass(frozen=True)
class Rows:
    """A tensor with `each` consecutive rows along `axis` for each image."""

    axis: int
    each: int

    def pick(self, values: Sequence[Tensor], places: Sequence[tuple[int, int]]) -> Tensor:
        """The rows of the images at these places (batch, number in it)."""
        parts = [values[b].narrow(self.axis, i * self.each, self.each) for b, i in places]
        return torch.cat(parts, self.axis)

    def images(self, value: Tensor) -> Tensor:
        """Return the tensor image by image, (images, ...)."""
        moved = value.movedim(self.axis, 0)
        return moved.reshape(-1, self.each, *moved.shape[1:])


@dataclass(frozen=True)
class Counted:
    """A number, or a tuple of them, that grows by `step` with each image."""

    for_few: Any
    step: Any

    def of(self, images: int) -> Any:
        """The value for so many images."""
        more = images - len(FEW)
        if not isinstance(self.for_few, tuple):
            return self.for_few + more * self.step
        made = [few + more * step for few, step in zip(self.for_few, self.step, strict=True)]
        return torch.Size(made) if isinstance(self.for_few, torch.Size) else tuple(made)


@dataclass(frozen=True)
class Same:
    """A value that is the same for any images."""


@dataclass(frozen=True)
class Unknown:
    """A value that follows no rule; `why` says so in words."""

    why: str


Rule = Rows | Counted | Same | Unknown


@dataclass(frozen=True)
class Following:
    """The rules of every value at a block's boundary, for each kind of batch (images of one size
    are one kind), and how many images each batch has. `failed` says why there are no rules."""

    kinds: tuple[int, ...]  # of each batch
    counts: tuple[int, ...]
    rules: tuple[Mapping[fx.Node, Sequence[Rule]], ...]
    failed: str | None = None


def follow(
    network: fx.GraphModule, batches: Sequence[Batch], names: Sequence[str]
) -> tuple[tuple[Block, ...], Following]:
    """The blocks of `network`, where values that are no tensors do not keep one from ending, and
    the rules of the values between them."""
    kinds, samples = _kinds(batches)
    counts = tuple(len(batch[0]) for batch in batches)
    plain: set[fx.Node] = set()

    def note_plain(node: fx.Node, value: Any) -> None:
        if not any(isinstance(leaf, Tensor) for leaf in tree_flatten(value)[0]):
            plain.add(node)

    try:
        _run(network, _chosen(samples[0], FEW), note_plain)
        blocks = find_blocks(network, names, plain)
        edges = {n for block in blocks for n in (*block.entries, *block.exits)}
        rules = tuple(_rules(network, edges, sample) for sample in samples)
    except Exception as error:  # the code of a layer that was left whole raises what it likes
        why = f"the network fails on two or three of the images: {first_line(error)}"
        return find_blocks(network, names), Following(kinds, counts, (), why)
    return blocks, Following(kinds, counts, rules)


class Images:
    """The values of some nodes, a batch each, to be picked from by the number of the image.

    `unfollowed` says in words why some of the leaves cannot be picked from; these are None in what
    is picked.
    """

    def __init__(
        self, following: Following, batches: Sequence[Values], nodes: Sequence[fx.Node]
    ) -> None:
        assert following.failed is None, "there are no rules to pick by"
        self.following, self.nodes = following, nodes
        self.where = [(b, i) for b, count in enumerate(following.counts) for i in range(count)]
        self.leaves: dict[fx.Node, list[list[Any]]] = {}
        self.specs: dict[fx.Node, Any] = {}
        self.unfollowed: dict[tuple[fx.Node, int], str] = {}
        for node in nodes:
            flat = [tree_flatten(values[node]) for values in batches]
            self.leaves[node] = [leaves for leaves, _ in flat]
            self.specs[node] = flat[0][1]
            for at in range(len(flat[0][0])):
                why = self._unfollowed(node, at)
                if why is not None:
                    self.unfollowed[node, at] = f"'{node.name}' {why}"

    def __len__(self) -> int:
        return len(self.where)

    def pick(self, chosen: Tensor) -> Values:
        """The values for the chosen images, all of one kind."""
        places = [self.where[i] for i in chosen.tolist()]
        return {
            node: tree_unflatten(
                [self._picked(node, at, places) for at in range(len(self.leaves[node][0]))],
                self.specs[node],
            )
            for node in self.nodes
        }

    def parts(self, chosen: Tensor, most: int) -> Iterator[Tensor]:
        """`chosen` in parts of one kind and of at most so many images."""
        kinds = torch.tensor([self._kind(i) for i in chosen.tolist()])
        for kind in kinds.unique():
            yield from chosen[kinds == kind].split(most)

    def alike(self, chosen: Tensor, most: int) -> Tensor:
        """The first of `chosen`, and those after it of the same kind, at most so many in all."""
        if len(self.following.rules) == 1:
            return chosen[:most]
        first = self._kind(int(chosen[0]))
        return torch.tensor([i for i in chosen.tolist() if self._kind(i) == first][:most])

    def maps(self) -> dict[tuple[fx.Node, int], float]:
        """The floating-point maps among the values, by node and number of the leaf: their variance
        for one element of one image, around the mean over the images; where they do not vary, the
        mean of their squares, and where they are zero, 1."""
        found = {}
        for node in self.nodes:
            for at in range(len(self.leaves[node][0])):
                if (node, at) not in self.unfollowed:
                    parts = list(self._maps(node, at))
                    if parts:
                        found[node, at] = _variance(parts)
        return found

    def _maps(self, node: fx.Node, at: int) -> Iterator[Tensor]:
        for kind, leaves in zip(self.following.kinds, self.leaves[node], strict=True):
            rule = self.following.rules[kind][node][at]
            if isinstance(rule, Rows) and leaves[at].is_floating_point():
                yield rule.images(leaves[at])

    def _kind(self, image: int) -> int:
        return self.following.kinds[self.where[image][0]]

    def _picked(self, node: fx.Node, at: int, places: Sequence[tuple[int, int]]) -> Any:
        first = places[0][0]
        rule = self.following.rules[self.following.kinds[first]][node][at]
        if (node, at) in self.unfollowed:
            return None
        if isinstance(rule, Rows):
            return rule.pick([leaves[at] for leaves in self.leaves[node]], places)
        return rule.of(len(places)) if isinstance(rule, Counted) else self.leaves[node][first][at]

    def _unfollowed(self, node: fx.Node, at: int) -> str | None:
        """Why the leaf is not what its rule says, in words; None if it is."""
        firsts: dict[int, Any] = {}
        batches = zip(self.following.kinds, self.following.counts, self.leaves[node], strict=True)
        for kind, count, leaves in batches:
            rules = self.following.rules[kind][node]
            if len(rules) != len(leaves) or len(leaves) <= at:
                return "has another structure for other images"
            rule, leaf = rules[at], leaves[at]
            first = firsts.setdefault(kind, leaf)
            if isinstance(rule, Unknown):
                return rule.why
            if not _fits(rule, leaf, count, first):
                return "depends on what is in the images"
        return None


def _fits(rule: Rule, leaf: Any, count: int, first: Any) -> bool:
    """Whether the leaf of a batch of `count` images is what its rule says; `first` is that of the
    first batch."""
    if not isinstance(rule, Rows):
        return _equal(leaf, rule.of(count) if isinstance(rule, Counted) else first)
    if not isinstance(leaf, Tensor) or leaf.dim() <= rule.axis:
        return False
    rest, same = (_without(tensor.shape, rule.axis) for tensor in (leaf, first))
    return leaf.shape[rule.axis] == rule.each * count and rest == same


def _variance(parts: Sequence[Tensor]) -> float:
    count = sum(part.numel() for part in parts)
    if len({part.shape[1:] for part in parts}) == 1:
        mean: Any = sum(part.double().sum(0) for part in parts) / sum(map(len, parts))
    else:  # images of different sizes share a mean, no more
        mean = sum(part.double().sum() for part in parts) / count
    varied = sum(float((part.double() - mean).square().sum()) for part in parts) / count
    return varied or sum(float(part.double().square().sum()) for part in parts) / count or 1.0


def _rules(
    network: fx.GraphModule, nodes: set[fx.Node], sample: Batch
) -> dict[fx.Node, list[Rule]]:
    """The leaves of each node's value."""
    seen: list[dict[fx.Node, Any]] = [{}, {}]
    for values, images in zip(seen, (FEW, MORE), strict=True):

        def keep(node: fx.Node, value: Any, into: Values = values) -> None:
            if node in nodes:
                into[node] = value

        _run(network, _chosen(sample, images), keep)
    rules: dict[fx.Node, list[Rule]] = {}
    for node in nodes:
        (few, spec), (more, other) = (tree_flatten(values[node]) for values in seen)
        if spec != other:
            rules[node] = [Unknown("has another structure for other images") for _ in few]
        else:
            rules[node] = [_rule(*leaves) for leaves in zip(few, more, strict=True)]
    return rules


def _rule(few: Any, more: Any) -> Rule:
    if isinstance(few, Tensor) and isinstance(more, Tensor):
        return _tensor_rule(few, more)
    if _equal(few, more):
        return Same()
    if _is_number(few) and _is_number(more):
        return Counted(few, more - few)
    if _are_numbers(few) and _are_numbers(more) and len(few) == len(more):
        return Counted(few, tuple(b - a for a, b in zip(few, more, strict=True)))
    return Unknown(f"is a {type(few).__name__} that is another one for other images")


def _tensor_rule(few: Tensor, more: Tensor) -> Rule:
    if few.shape == more.shape:
        return Same() if _equal(few, more) else Unknown("mixes the images of a batch")
    if few.dim() != more.dim():
        return Unknown("has another number of dimensions for other images")
    axes = [axis for axis, size in enumerate(few.shape) if more.shape[axis] != size]
    (axis, *others) = axes
    each, rest = divmod(few.shape[axis], len(FEW))
    if others or rest or more.shape[axis] != each * len(MORE):
        return Unknown("has no row, or no fixed number of rows, for each image")
    rows = Rows(axis, each)
    again = rows.pick([more], [(0, MORE.index(image)) for image in FEW])
    return rows if _equal(few, again) else Unknown("mixes the images of a batch")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_number, value))


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not a.is_floating_point():
            return torch.equal(a, b)
        scale = float(a.abs().max()) if a.numel() else 0.0
        return torch.allclose(a, b, rtol=0, atol=TOLERANCE * scale, equal_nan=True)
    return type(a) is type(b) and bool(a == b)


def _without(shape: torch.Size, axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _kinds(batches: Sequence[Batch]) -> tuple[tuple[int, ...], list[Batch]]:
    """Each batch's kind, by the shapes of its images, and as many images of each kind as the
    network is tried on: repeated ones where there are fewer."""
    shapes = [tuple((tensor.shape[1:], tensor.dtype) for tensor in batch) for batch in batches]
    order = list(dict.fromkeys(shapes))
    samples = []
    for shape in order:
        alike = [batch for batch, given in zip(batches, shapes, strict=True) if given == shape]
        taken = []
        for tensors in zip(*alike, strict=True):
            images = all(
                t.dim() and len(t) == len(b[0]) for t, b in zip(tensors, alike, strict=True)
            )
            few = torch.cat(tensors[: len(MORE)])[: len(MORE)] if images else tensors[0]
            if images and len(few) < len(MORE):
                few = torch.cat([few] * len(MORE))[: len(MORE)]
            taken.append(few)
        samples.append(tuple(taken))
    return tuple(map(order.index, shapes)), samples


def _chosen(sample: Batch, images: Sequence[int]) -> Batch:
    """The images of these numbers; an input that is not one row an image stays whole."""
    rows = len(sample[0])
    return tuple(t[list(images)] if t.dim() and len(t) == rows else t for t in sample)


def _run(network: fx.GraphModule, inputs: Batch, see: Callable[[fx.Node, Any], None]) -> None:
    """Run the network, and show the value of every node."""

    class Seen(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            see(n, value)
            return value

    with torch.no_grad(), restored_buffers(network):
        Seen(network).run(*tree_map(torch.clone, inputs))
