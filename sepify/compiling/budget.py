"""How long tuning may take."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sepify.errors import UsageError

_LONGEST = 1000  # trials of one operator, when time is the limit
_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """Trials for all operators together, or seconds; neither: nothing is measured."""

    trials: int | None = None
    seconds: float | None = None

    @property
    def is_none(self) -> bool:
        """Whether nobody asked for tuning."""
        return self.trials is None and self.seconds is None

    def part(self, mine: int, all_: int) -> Budget:
        """What `mine` of `all_` operators get of it, if they are served first."""
        trials = None if self.trials is None else max(1, self.trials * mine // max(all_, 1))
        seconds = None if self.seconds is None else self.seconds * mine / max(all_, 1)
        return Budget(trials, seconds)

    def rest(self, trials: int, seconds: float) -> Budget:
        """What is left of it."""
        return Budget(
            None if self.trials is None else max(1, self.trials - trials),
            None if self.seconds is None else max(0.0, self.seconds - seconds),
        )

    def is_spent(self, trials: int, seconds: float) -> bool:
        """Whether so many trials, or so long a time, use it up."""
        if self.is_none:
            return True
        return trials >= (self.trials or float("inf")) or seconds >= (self.seconds or float("inf"))

    def progress(self, trials: int, seconds: float) -> tuple[int, int]:
        """How much of it is used: trials, or whole seconds, done and in total."""
        if self.trials is not None:
            return trials, self.trials
        return int(seconds), max(1, int(self.seconds or 0))

    def share(self, operators: int, spent: int) -> int:
        """Trials for the next of `operators` that are left, after `spent` trials."""
        if self.trials is not None:
            return max(1, (self.trials - spent) // operators)
        return _LONGEST

    def deadline(self, started: float, operators: int, now: float) -> float | None:
        """When the next of `operators` that are left must stop; times in seconds, as `now`."""
        if self.seconds is None:
            return None
        return now + max(0.0, started + self.seconds - now) / operators


def parse_budget(tune: str | int | None) -> Budget:
    """`None`, a number of trials, or a time such as "90s", "10min" or "1h".

    Raises UsageError for anything else.
    """
    if tune is None:
        return Budget()
    if isinstance(tune, int) or tune.strip().isdigit():
        trials = int(tune)
        if trials < 1:
            raise UsageError(f"tune={tune}: at least one trial, or leave it out")
        return Budget(trials=trials)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|m|h)\s*", tune)
    if match is None or float(match[1]) == 0:
        raise UsageError(f"tune={tune!r}: give a number of trials, or a time like 90s, 10min, 1h")
    return Budget(seconds=float(match[1]) * _UNITS[match[2]])
