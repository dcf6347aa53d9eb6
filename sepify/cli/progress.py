"""The progress bar of commands that take more than a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sepify.cli.console import err, notes
from sepify.printable import printable
from sepify.process.starting import is_main_process

FIRST_LINE = 2.0  # seconds after which the first line comes where there is no terminal
NEXT_LINE = 10.0  # and the others, at least


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, moved by progress(what, done, total); total 0 where it is unknown. Where
    stderr is no terminal, a plain line now and then."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    drawn = is_main_process() and notes.is_terminal
    lines = Lines(time.monotonic) if is_main_process() and not drawn else None
    with Progress(*columns, console=notes, transient=True, disable=not drawn) as bar:
        task = bar.add_task("starting", total=1)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=printable(what), completed=done, total=total or None)
            if lines is not None:
                lines.show(what, done, total)

        try:
            yield show
        except KeyboardInterrupt:
            err.print("interrupted; nothing half-written was left behind")
            raise


class Lines:
    """Progress in plain lines on stderr: the first after two seconds, then one in ten at most."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.started = clock()
        self.next = self.started + FIRST_LINE

    def show(self, what: str, done: int, total: int) -> None:
        """Say it, if it is time."""
        now = self.clock()
        if now < self.next:
            return
        self.next = now + NEXT_LINE
        share = f", {done:,} of {total:,}" if total else ""
        told = f"{printable(what)}{share} ({now - self.started:.0f} s)"
        notes.print(told, markup=False, emoji=False, highlight=False, soft_wrap=True)
