"""What a pass is: options in fields, one `apply`, declarations that the runner holds it to."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import fx


@dataclass(frozen=True)
class Result:
    """What a pass made of a graph.

    `left_alone` has a reason, in words, for every site (a module's path or a node's name) that the
    pass looked at and did not rewrite. `changed` may be False only if nothing is otherwise.
    """

    graph_module: fx.GraphModule
    changed: bool
    left_alone: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Condition:
    """Something that holds of a graph, in words, and where it does not: None if it holds."""

    words: str
    broken_at: Callable[[fx.GraphModule], str | None]


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite of a graph; the fields of a subclass, a frozen dataclass, are its options.

    A pass leaves the graph module that it is given alone and returns another that shares no memory
    with it, unless it declares `in_place`: then it returns the one that it was given. What it
    `requires` must hold before, what it `ensures` holds afterwards.
    """

    requires: ClassVar[tuple[Condition, ...]] = ()
    ensures: ClassVar[tuple[Condition, ...]] = ()
    in_place: ClassVar[bool] = False

    @abstractmethod
    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Rewrite `graph_module`."""

    @property
    def name(self) -> str:
        """The name in messages and dumps: `fold-batch-norm` for FoldBatchNorm."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(self).__name__).lower()
