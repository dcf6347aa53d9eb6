"""One lock around what cannot run in two threads at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """A block, or a function that this decorates, of which one runs in a process at a time: another
    thread waits. Within one thread they may be nested.

    Tracing patches modules and torch's functions, torch.export and TVM's compiler have state of the
    whole process, and so are the random states and Python's filters for warnings.
    """
    with _lock:
        yield


def _forget_holder() -> None:
    """In a fork of this process, whose only thread is not the one that held the lock."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_forget_holder)
