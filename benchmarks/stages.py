"""Where the time of a conversion goes: timers around the functions that do its parts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from sepify import convert as _  # noqa: F401 - its modules must be loaded before they are timed
from sepify.calibration import moments as gathering
from sepify.calibration import replay as lockstep
from sepify.calibration import solve
from sepify.factorize import statistics

# (holder, name, stage): the name is looked up in the holder each time that it is called
TIMED: tuple[tuple[Any, str, str], ...] = (
    (lockstep, "run_node", "running both networks"),
    (statistics, "extract_patches", "patches"),
    (statistics.MomentSums, "add", "moments"),
    (statistics.MomentSums, "moments", "moments"),
    (solve, "factorize_svd", "svd start"),
    (gathering, "solve_least_squares", "solving"),
    (solve, "refine_block", "refining"),
)
WHOLE = frozenset({"refining"})  # what it calls counts as its own


@contextmanager
def stage_times() -> Iterator[dict[str, float]]:
    """CPU seconds of this process by stage, each less the stages inside it, filled in as the block
    runs. Stages are those of TIMED."""
    spent: dict[str, float] = defaultdict(float)
    running: list[str] = []
    since = time.process_time()

    def switch() -> None:
        nonlocal since
        now = time.process_time()
        if running:
            spent[running[-1]] += now - since
        since = now

    def timed(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if running and running[-1] in WHOLE:
                return function(*args, **kwargs)
            switch()
            running.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                switch()
                running.pop()

        return call

    kept = [(holder, name, getattr(holder, name)) for holder, name, _stage in TIMED]
    try:
        for holder, name, stage in TIMED:
            setattr(holder, name, timed(getattr(holder, name), stage))
        yield spent
    finally:
        for holder, name, function in kept:
            setattr(holder, name, function)
