"""The consoles, and what every command says in the same words.

Nothing that is printed here is read as rich's markup or emoji codes, and no control character that
stands in a name reaches the terminal.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from sepify.errors import SepifyWarning
from sepify.printable import printable
from sepify.process.starting import is_main_process


class _PrintableConsole(Console):
    """Whatever a table or a text of it holds, only rich's own control codes are sent as such."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text, lines=True), style)


def _console(*, stderr: bool = False, quiet: bool = False) -> Console:
    return _PrintableConsole(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


out = _console(quiet=not is_main_process())  # of several processes one speaks
err = _console(stderr=True)
notes = _console(stderr=True)  # what --quiet leaves out: progress, files written


def say(kind: str, style: str, message: str) -> None:
    """One line on stderr: what kind of news it is, and the news."""
    err.print(Text.assemble((f"{kind}:", style), " ", printable(message)), soft_wrap=True)


def list_written(paths: Iterable[Path]) -> None:
    """Name the files that were written, on stderr."""
    for path in paths:
        notes.print(Text(f"wrote {printable(str(path))}"), soft_wrap=True)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of ours is one line on stderr; any other says what Python would say of it."""
    if issubclass(category, SepifyWarning):
        say("warning", "bold yellow", str(message))
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(printable(text, lines=True))


def show_crash(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """The traceback of what sepify did not expect, as Python shows it."""
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(printable(text, lines=True))
