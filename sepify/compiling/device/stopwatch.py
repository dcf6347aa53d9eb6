"""Times convolutions on a board, for latency tables."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from sepify.compiling.device.boards import Farm
from sepify.compiling.device.linking import board_target, link_network
from sepify.compiling.device.timing import BoardTimer, Network, Turns, open_timer
from sepify.compiling.targets import Target
from sepify.errors import BoardWarning

_SECONDS = 0.5  # for each of those that take turns
_ROUNDS = (3, 40)
_LEAST_MS = 5


@dataclass(frozen=True)
class BoardStopwatch:
    """A `sepify.timing.layers.Stopwatch`: one thread, the board's first core that is fast."""

    machine: str
    target: Target
    timer: BoardTimer

    def build(self, module: nn.Sequential, x: Tensor) -> Network:
        """Cross-compile, with our kernels."""
        return link_network(module, x, self.target)

    def medians(self, built: Sequence[Network]) -> list[float]:
        """Seconds of each, in turns, in one session on the board."""
        turns = Turns(1, _SECONDS * len(built), _ROUNDS, 1, _LEAST_MS)
        return [float(np.median(each)) for each in self.timer.race(built, turns)]


@contextmanager
def board_stopwatch(farm: Farm, target: str) -> Iterator[BoardStopwatch]:
    """Raises UsageError for a target that is no board's, DeviceError where no board answers."""
    chosen = board_target(target)
    with open_timer(farm) as timer:
        if timer.facts.emulated:
            warnings.warn(
                f"{farm} is {timer.facts.cpu}: its times say nothing about a board's, nor does a "
                "plan that is made by them",
                BoardWarning,
                stacklevel=3,
            )
        timer.close()  # for now: the network is measured first, and the process is not small
        yield BoardStopwatch(timer.facts.identity, chosen, timer)
