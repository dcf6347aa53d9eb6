"""Functional calls with stored weights -> modules at the weights' own path.

`conv2d(x, self.stem.weight, self.stem.bias)` becomes `self.stem(x)` with a Conv2d, whichever way it
is spelled (torch, aten, `_convolution`, ...); likewise BatchNorm, linear and dropout, which later
passes, `train()` and `eval()` rely on. The module takes over the very parameters, so their names,
identity, dtype, device and requires_grad stay.

Left as it is: a call whose weight is computed, used by anything else, or used with other settings
in another place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn

from sepify.capture.functional import CONSTANT_PREFIX, Call, recognise

LAYER = "layer"  # in a node's meta: the path of the module whose forward made the call


@dataclass(frozen=True)
class Raised:
    """Where modules were put whose tensors had other names before: old name -> new name."""

    renamed: tuple[tuple[str, str], ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """The same in words."""
        nameless = [new for old, new in self.renamed if old.startswith(CONSTANT_PREFIX)]
        moved = [
            f"{old} -> {new}" for old, new in self.renamed if not old.startswith(CONSTANT_PREFIX)
        ]
        notes = []
        if nameless:
            notes.append(f"weights without a name (of a frozen file) became {_first(nameless)}")
        if moved:
            notes.append(f"weights without a layer of their own were given one: {_first(moved)}")
        return tuple(notes)


def _first(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@contextmanager
def compiled_when_raised() -> Iterator[None]:
    """Graph modules made here have no code before `raise_modules`, which gives them theirs: to
    generate it twice would double the cost of making one."""
    with patch.object(fx.GraphModule, "recompile", lambda _: None):
        yield


def raise_modules(
    graph_module: fx.GraphModule,
    kinds: Collection[str] = ("conv",),
    ranks: Mapping[fx.Node, int] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Raised:
    """Turn functional calls with stored weights into modules, in place, and compile the graph.

    `kinds` are those of `functional.Call`: "conv" (2-d), "bn", "linear", "dropout". A BatchNorm
    needs `ranks`, the dimensions of what nodes compute (they decide which BatchNorm it is), and
    `state`, the original's tensors (its counter is in no graph).
    """
    found = []
    for node in graph_module.graph.nodes:
        call = recognise(node, ranks or {})
        if call is not None and call.kind in kinds:
            found.append(call)
    renamed = _raise(graph_module, found, state or {}) if found else []
    graph_module.recompile()
    return Raised(tuple(renamed))


def _raise(
    graph_module: fx.GraphModule, calls: list[Call], state: Mapping[str, Tensor]
) -> list[tuple[str, str]]:
    nodes = graph_module.graph.find_nodes(op="get_attr")
    held = {node: _fetch(graph_module, node.target) for node in nodes}
    uses = _tensor_uses(graph_module, held)
    groups: dict[object, list[Call]] = defaultdict(list)
    for call in calls:
        groups[_group_key(call, held)].append(call)
    renamed: list[tuple[str, str]] = []
    for group in groups.values():
        if _may_be_raised(group, held, uses):
            renamed += _raise_group(graph_module, group, state)
    return renamed


def _tensor_uses(
    graph_module: fx.GraphModule, held: Mapping[fx.Node, Tensor]
) -> dict[int, set[fx.Node]]:
    """For each tensor (by identity), the nodes that read it, or call a module that owns it."""
    uses: dict[int, set[fx.Node]] = defaultdict(set)
    for node, tensor in held.items():
        uses[id(tensor)].update(node.users)
    modules = dict(graph_module.named_modules(remove_duplicate=False))
    for node in graph_module.graph.find_nodes(op="call_module"):
        for tensor in modules[str(node.target)].parameters():
            uses[id(tensor)].add(node)
    return uses


def _group_key(call: Call, held: Mapping[fx.Node, Tensor]) -> object:
    """Calls of one module share this: its main tensor, or for a dropout nothing but itself.

    Freezing merges constants that are equal, zeros above all; so a nameless weight says nothing,
    and only calls that are alike in everything are taken for one module's.
    """
    if call.main is None:
        return call.node
    identities = tuple((name, id(held[node])) for name, node in call.tensors.items())
    if _is_constant(call):
        return (identities, call.settings)
    return identities[0]


def _may_be_raised(
    group: list[Call], held: Mapping[fx.Node, Tensor], uses: Mapping[int, set[fx.Node]]
) -> bool:
    first = group[0]
    if first.main is None or _is_constant(first):
        return True
    tensors = {name: held[node] for name, node in first.tensors.items()}
    for call in group[1:]:
        others = {name: held[node] for name, node in call.tensors.items()}
        same = others.keys() == tensors.keys() and all(others[n] is tensors[n] for n in tensors)
        if not same or call.settings != first.settings:
            return False
    return uses[id(held[first.main])] <= {call.node for call in group}


def _is_constant(call: Call) -> bool:
    return call.main is not None and str(call.main.target).startswith(CONSTANT_PREFIX)


def _raise_group(
    graph_module: fx.GraphModule, group: list[Call], state: Mapping[str, Tensor]
) -> list[tuple[str, str]]:
    first = group[0]
    owned = {name: str(node.target) for name, node in first.tensors.items()}
    tensors = {name: _weight(graph_module, name, path) for name, path in owned.items()}
    path = _place(graph_module, first, owned)
    module = first.build(tensors)
    if first.kind in ("conv", "linear"):  # whose mode says nothing; the others' is in the call
        module.train(graph_module.training)
    counter = state.get(f"{path}.num_batches_tracked")
    if isinstance(module, nn.modules.batchnorm._NormBase) and counter is not None:
        module.num_batches_tracked = counter.detach().clone()
    if isinstance(module, nn.modules.batchnorm._NormBase):
        for name, child in _children(graph_module, path):
            module.add_module(name, child)
    elif path not in owned.values():
        _move_children(graph_module, path)
    if path in owned.values():  # the module takes the place of the parameter itself
        _delete(graph_module, path)
    _put(graph_module, path, module)
    for call in group:
        with graph_module.graph.inserting_before(call.node):
            node = graph_module.graph.call_module(path, (call.input,))
        node.meta = dict(call.node.meta)
        call.node.replace_all_uses_with(node)
        graph_module.graph.erase_node(call.node)
    renamed: list[tuple[str, str]] = []
    for name, old in owned.items():
        new = f"{path}.{name}"
        still_read = _erase_unused(graph_module, old)
        if old == new or still_read or _is_a_modules_own(graph_module, old):
            continue  # it stays, or (a tied bias) both have it
        if old != path and old not in dict(renamed):
            _delete(graph_module, old)
        renamed.append((old, new))
    _forget_counter(graph_module, f"{path}.num_batches_tracked")
    return renamed


def _place(graph_module: fx.GraphModule, call: Call, owned: Mapping[str, str]) -> str:
    """The weights' own path where they are `path.weight` and `path.bias`; else the full
    name of the weight if it has one of its own, else that of the layer whose forward made the
    call, where known and free, else an invented one: conv_0, conv_1, ..."""
    main = str(call.main.target) if call.main is not None else ""
    parent, _, leaf = main.rpartition(".")
    if parent and leaf in owned and _holds_only(graph_module, parent, set(owned), call.kind):
        return parent
    anonymous = not main or main.startswith(CONSTANT_PREFIX)
    if not anonymous and leaf not in owned:
        return main
    prefix = "" if anonymous or not parent else f"{parent}."
    taken = {name for name, _ in graph_module.named_modules()}
    layer = call.node.meta.get(LAYER, "")
    if not main and layer and layer not in taken:
        return str(layer)
    numbers = iter(range(len(taken) + 1))
    return next(name for n in numbers if (name := f"{prefix}{call.kind}_{n}") not in taken)


def _holds_only(graph_module: fx.GraphModule, path: str, names: set[str], kind: str) -> bool:
    """Whether nothing but these tensors (and a BatchNorm's counter) lives at `path`.

    A BatchNorm may have submodules, such as the activation that timm puts there: it keeps them.
    A convolution may not, because later passes put another module in its place; those without
    state, such as the padding that a static "same" convolution has, can be moved beside it.
    """
    module = graph_module.get_submodule(path)
    movable = not any(child.state_dict() for child in module.children())
    held = {name for name, _ in module.named_parameters(recurse=False)}
    held |= {name for name, _ in module.named_buffers(recurse=False)}
    return held <= names | {"num_batches_tracked"} and (kind == "bn" or movable)


def _children(graph_module: fx.GraphModule, path: str) -> list[tuple[str, nn.Module]]:
    """Those of what lives at `path`, if anything does: a shared module's other names hold none."""
    holder: object = graph_module
    for name in path.split("."):
        holder = getattr(holder, name, None)
    return list(holder.named_children()) if isinstance(holder, nn.Module) else []


def _move_children(graph_module: fx.GraphModule, path: str) -> None:
    """`conv.padding` to `conv_padding`, so that another module may take the place of `conv`."""
    for name, child in _children(graph_module, path):
        old, new = f"{path}.{name}", f"{path}_{name}"
        taken = {known for known, _ in graph_module.named_modules()}
        while new in taken:
            new += "_"
        _put(graph_module, new, child)
        for node in graph_module.graph.nodes:
            if node.op == "call_module" and f"{node.target}.".startswith(f"{old}."):
                node.target = new + str(node.target)[len(old) :]


def _erase_unused(graph_module: fx.GraphModule, path: str) -> bool:
    """Erase the tensor's get_attr nodes that nobody reads; whether any is left."""
    nodes = graph_module.graph.find_nodes(op="get_attr", target=path)
    for node in nodes:
        if not node.users:
            graph_module.graph.erase_node(node)
    return any(node.users for node in nodes)


def _forget_counter(graph_module: fx.GraphModule, path: str) -> None:
    """The increment of a BatchNorm's counter, which a training-mode script does by hand and the
    module does itself."""
    for node in graph_module.graph.find_nodes(op="get_attr", target=path):
        writes = [u for u in node.users if u.target in (torch.ops.aten.copy_, "add_")]
        for write in writes:
            graph_module.graph.erase_node(write)
        for user in list(node.users):
            if not user.users:
                graph_module.graph.erase_node(user)
        if not node.users:
            graph_module.graph.erase_node(node)


def _is_a_modules_own(graph_module: fx.GraphModule, path: str) -> bool:
    """Whether the tensor belongs to a module that the graph calls."""
    called = {str(n.target) for n in graph_module.graph.nodes if n.op == "call_module"}
    return any(path.startswith(f"{target}.") for target in called)


def _delete(graph_module: fx.GraphModule, path: str) -> None:
    parent, _, leaf = path.rpartition(".")
    delattr(graph_module.get_submodule(parent), leaf)


def _put(graph_module: fx.GraphModule, path: str, module: nn.Module) -> None:
    *parents, leaf = path.split(".")
    owner: nn.Module = graph_module
    for parent in parents:
        if parent not in owner._modules:
            owner.add_module(parent, nn.Module())
        owner = owner.get_submodule(parent)
    setattr(owner, leaf, module)


def _weight(graph_module: fx.GraphModule, name: str, path: str) -> Tensor:
    """The tensor that the module is to hold as `name`: the stored one itself, or a copy of a
    constant (others may use it too), which can be trained from now on."""
    tensor = _fetch(graph_module, path)
    if not path.startswith(CONSTANT_PREFIX):
        return tensor
    copied = tensor.detach().clone()
    return nn.Parameter(copied) if name in ("weight", "bias") else copied


def _fetch(graph_module: fx.GraphModule, path: object) -> Tensor:
    parent, _, leaf = str(path).rpartition(".")
    value = getattr(graph_module.get_submodule(parent), leaf)
    assert isinstance(value, Tensor)
    return value
