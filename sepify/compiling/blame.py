"""Which layers of a network call an operator: for the message about one that cannot be lowered."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

_MOST_NAMED = 3


def layers_that_call(
    network: fx.GraphModule, inputs: tuple[Tensor, ...], operators: Collection[str]
) -> str:
    """The layers in which one of `operators` (as `linalg_eig.default`) runs, for a sentence; ""
    where none was found."""
    finder = _Finder(network, frozenset(operators))
    with torch.no_grad():
        finder.run(*inputs)
    names = list(dict.fromkeys(finder.found))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_MOST_NAMED]) + more


class _Finder(fx.Interpreter):
    """Runs the graph node by node and watches what each of them dispatches."""

    def __init__(self, network: fx.GraphModule, operators: frozenset[str]) -> None:
        super().__init__(network)
        self._operators = operators
        self.found: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        with _Watch() as watch:
            result = super().run_node(n)
        if watch.seen & self._operators:
            self.found.append(_layer(n))
        return result


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.seen.add(str(func.__name__))
        return func(*args, **(kwargs or {}))


def _layer(node: fx.Node) -> str:
    """The module that a node is or stands in; its own name in the network's outermost forward."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values() if path]
    return paths[-1] if paths else node.name
