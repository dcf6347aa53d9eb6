"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""progress(what, done, total): what is being done, units done, units in all; 0 where unknown."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody wants to see."""
