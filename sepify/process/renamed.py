"""Options that have moved: the old spelling is refused by the new one's name."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from sepify.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")


def renamed(**new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Raise UsageError for a keyword of a function that is now said otherwise, as `new` tells."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in kwargs:
                if old in new:
                    raise UsageError(f"{old}=... is now {new[old]}")
            return function(*args, **kwargs)

        return call

    return decorate
