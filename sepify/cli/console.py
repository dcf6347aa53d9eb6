"""The consoles, and what every command says in the same words."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape

from sepify.errors import SepifyWarning
from sepify.processes import is_main_process

out = Console(quiet=not is_main_process())  # of several processes one speaks
err = Console(stderr=True)
notes = Console(stderr=True)  # what --quiet leaves out: progress, files written


def list_written(paths: Iterable[Path]) -> None:
    """Name the files that were written, on stderr."""
    for path in paths:
        notes.print(f"wrote {escape(str(path))}", soft_wrap=True)


_show_other_warning = warnings.showwarning


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of ours is one line on stderr; any other is shown as Python shows it."""
    if issubclass(category, SepifyWarning):
        err.print(f"[bold yellow]warning:[/] {escape(str(message))}", soft_wrap=True)
    else:
        _show_other_warning(message, category, filename, lineno, file, line)
