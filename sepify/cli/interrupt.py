"""Ctrl-C ends a command even where Python cannot notice it, in the middle of a call into C++."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sepify.storage.atomic import discard_scratch

EXIT_CODE = 130  # what a shell expects of a program that was interrupted
_PATIENCE = 1.5  # seconds in which Python usually notices
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, an interrupt that Python has not noticed after a moment ends the process:
    scratch files are removed, the exit code is 130.

    Does nothing outside the main thread, or where Ctrl-C is ignored or handled by somebody else.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    noticed = threading.Event()

    def notice(number: int, frame: FrameType | None) -> None:
        noticed.set()
        signal.default_int_handler(number, frame)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watch = _Watch(reading, noticed)
    watch.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, notice)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(before)
        os.close(writing)
        watch.join()
        os.close(reading)


class _Watch(threading.Thread):
    """Reads the numbers of signals, which the system's own handler writes down at once."""

    def __init__(self, descriptor: int, noticed: threading.Event) -> None:
        super().__init__(name="sepify-interrupt", daemon=True)
        self._descriptor = descriptor
        self._noticed = noticed

    def run(self) -> None:
        """Until the writing end is closed."""
        while numbers := os.read(self._descriptor, 64):
            if signal.SIGINT in numbers:
                if not self._noticed.wait(_PATIENCE):
                    _end()
                self._noticed.clear()


def _end() -> None:
    discard_scratch()
    # past Python's streams and rich: the main thread may hold their locks
    cursor = _SHOW_CURSOR if sys.__stderr__ is not None and os.isatty(2) else b""
    os.write(2, cursor + b"\ninterrupted; nothing half-written was left behind\n")
    os._exit(EXIT_CODE)
