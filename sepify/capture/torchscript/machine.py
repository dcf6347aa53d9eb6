"""What the rules for nodes ask of the interpreter that applies them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from sepify.capture.torchscript.attributes import Attributes
from sepify.capture.torchscript.recorder import Recorder
from sepify.capture.torchscript.values import Traced, map_leaves


class Machine(ABC):
    """The state of a run: the model's attributes and the graph that is recorded."""

    def __init__(self, attributes: Attributes, recorder: Recorder) -> None:
        self.attributes = attributes
        self.recorder = recorder

    @abstractmethod
    def run_block(self, block: Any, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Run the nodes of a graph or block and return the values of its outputs."""

    def tensor(self, value: Any) -> Traced:
        """Return a tensor as a value of the run; a constant is made one."""
        if isinstance(value, Tensor):
            return self.attributes.constant(value)
        assert isinstance(value, Traced)
        return value

    def known(self, value: Any, node: Any) -> Any:
        """Return `value` with every size in it assumed to be the example's."""
        return map_leaves(lambda leaf: self.recorder.assume(leaf, node), value)


Handler = Callable[[Machine, Any, list[Any]], tuple[Any, ...]]
"""Takes the machine, a node and its input values; returns the values of its outputs."""
