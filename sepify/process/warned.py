"""Warnings that a command gives, for those who read its JSON instead of the terminal."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sepify.errors import SepifyWarning


@contextmanager
def warned() -> Iterator[list[str]]:
    """The warnings of ours inside the block, in sentences; they are shown all the same."""
    told: list[str] = []
    with warnings.catch_warnings():
        show: Any = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, SepifyWarning):
                told.append(str(message))
            show(message, category, *where, **more)

        warnings.showwarning = note
        yield told
