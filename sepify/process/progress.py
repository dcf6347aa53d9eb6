"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

from sepify.errors import UsageError
from sepify.faults import users_code

Progress = Callable[[str, int, int], None]
"""progress(what, done, total): what is being done, units done, units in all; 0 where unknown."""


def guarded(progress: Progress | None) -> Progress | None:
    """The user's `progress`, if any; whatever it raises comes as a UsageError that names it."""
    if progress is None:
        return None

    def tell(what: str, done: int, total: int) -> None:
        with users_code("the progress callback", UsageError):
            progress(what, done, total)

    return tell


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody wants to see."""
