"""A network of the zoo, built once, with what several checks need of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

import sepify
from sepify.capture import Captured, capture
from zoo.entry import Entry
from zoo.waking import waken

T = TypeVar("T")
BATCH = 2


class Specimen:
    """`model` in inference mode, its inputs, its graph, its conversion at rank 1; and in `seconds`
    the CPU seconds that making each took."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.seconds: dict[str, float] = {}
        self.failures: dict[str, Exception] = {}
        torch.manual_seed(0)
        self.model: nn.Module = waken(self._timed("construction", entry.build))
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        self.inputs = entry.inputs(BATCH)
        self._timed("forward", lambda: self.answer(self.model, self.inputs))

    @cached_property
    def captured(self) -> Captured:
        """The graph, captured with example inputs."""
        return self._once("capture", lambda: capture(self.model, self.inputs))

    @cached_property
    def small(self) -> fx.GraphModule:
        """The network converted at rank 1, as a user would from weights alone."""
        return self._once(
            "convert",
            lambda: sepify.convert(
                self.model, example_inputs=self.inputs, solver=sepify.Solver(method="svd")
            ),
        )

    @staticmethod
    @torch.no_grad()
    def answer(network: Any, inputs: tuple[Tensor, ...], seed: int = 0) -> Any:
        """What `network` answers; noise and dropout are the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return network(*inputs)

    def _once(self, what: str, work: Callable[[], T]) -> T:
        """As `_timed`; what failed is not tried again for the next check."""
        if what in self.failures:
            raise self.failures[what]
        try:
            return self._timed(what, work)
        except Exception as error:
            self.failures[what] = error
            raise

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        start = time.process_time()
        result = work()
        self.seconds[what] = time.process_time() - start
        return result
