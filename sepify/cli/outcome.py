"""What a command found, to be shown by the one who asked for it: in words or as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType


@dataclass(frozen=True)
class Outcome:
    """`shown` for people (None: they get the JSON too), `facts` in plain JSON types for machines,
    and the files `written`."""

    shown: RenderableType | None
    facts: Any
    written: tuple[Path, ...] = ()
