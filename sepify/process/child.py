"""Work on what is not trusted, done in a child process that can do little and is ended in time.

The child is a fork of this process, which has imported everything already, wherever no other Python
thread is running in it. A thread may hold a lock that the child would wait for: then, and where
forks are not safe (macOS), a new interpreter is started, which takes seconds.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from sepify.errors import SepifyError, first_line
from sepify.process.confinement import Limits, confine
from sepify.process.starting import python_command, python_environment

Work = Callable[[dict[str, Any]], None]

_PATIENCE = 3  # seconds on the clock for each of processor time: other programs want to work too
_MOST_ANSWER = 1 << 16
# whose threads hold no lock that the child could want: it draws nothing and handles no signals
_HARMLESS_THREADS = ("rich.live", "sepify.cli.interrupt")
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "Cannot allocate memory", "out of memory")


@dataclass(frozen=True)
class Ending:
    """How the work ended that raised no SepifyError: `kind` is "done", "memory", "time", "crash"
    or "error"; `detail` is the signal's name or the message."""

    kind: str
    detail: str = ""


def do_in_child(work: Work, request: dict[str, Any], limits: Limits) -> Ending:
    """Do `work(request)` in a child process under `limits`, and say how it ended.

    `work` is a function of a module and `request` plain JSON: they may have to be told to a new
    interpreter. What it returns is dropped. A SepifyError that it raises is raised here.
    KeyboardInterrupt ends the child.
    """
    with (
        _forked(work, request, limits) if _can_fork() else _started(work, request, limits) as child
    ):
        return _outcome(child, limits)


@dataclass(frozen=True)
class _Child:
    pid: int
    answer: int  # the descriptor that it answers on
    start: float  # seconds that it may take to begin


def _can_fork() -> bool:
    others = [t for t in threading.enumerate() if t is not threading.current_thread()]
    return sys.platform == "linux" and all(type(t).__module__ in _HARMLESS_THREADS for t in others)


@contextmanager
def _forked(work: Work, request: dict[str, Any], limits: Limits) -> Iterator[_Child]:
    reading, writing = os.pipe()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, reading)
        try:
            with warnings.catch_warnings():  # Python 3.12 warns where there are other threads
                warnings.simplefilter("ignore")
                pid = os.fork()
            if pid == 0:
                _be_child(work, request, limits, writing)
        finally:
            os.close(writing)
        stack.enter_context(_ended_at_last(pid))
        yield _Child(pid, reading, 0.0)


def _be_child(work: Work, request: dict[str, Any], limits: Limits, writing: int) -> NoReturn:
    try:
        os.setsid()  # Ctrl-C is for the parent to handle
        gc.disable()  # nothing of the parent's is tidied up here
        signal.set_wakeup_fd(-1)
        faulthandler.disable()
        _answer(_keep_only(writing), work, request, limits)
    finally:
        os._exit(0)


@contextmanager
def _started(work: Work, request: dict[str, Any], limits: Limits) -> Iterator[_Child]:
    process = subprocess.Popen(
        python_command("sepify.process.child"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**python_environment(), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told = {"module": work.__module__, "name": work.__name__, "request": request}
    with process.stdout, _ended_at_last(process.pid):
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps({**told, "limits": asdict(limits)}).encode())
        yield _Child(process.pid, process.stdout.fileno(), 60.0)
    process.returncode = 0  # it has been waited for


def main() -> None:
    """What the new interpreter does: the same as a forked child, told on stdin."""
    told = json.loads(sys.stdin.buffer.read())
    work = getattr(importlib.import_module(told["module"]), told["name"])
    _answer(_keep_only(1), work, told["request"], Limits(**told["limits"]))


def _keep_only(descriptor: int) -> int:
    """Close every descriptor but a new one for `descriptor`; 0 to 2 lead nowhere."""
    kept = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
    return kept


def _answer(descriptor: int, work: Work, request: dict[str, Any], limits: Limits) -> None:
    """Do the work and write one JSON object: how it ended."""
    import torch

    torch.set_num_threads(1)  # a fork has no thread but this one: a pool would wait for ever
    warnings.simplefilter("ignore")  # the parent will say them
    try:
        confine(limits)
        work(request)
        answer = {"kind": "done"}
    except BaseException as error:  # whatever a reader or a model raises
        answer = _described(error)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(json.dumps(answer).encode()[:_MOST_ANSWER])


def _described(error: BaseException) -> dict[str, str]:
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if isinstance(cause, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
            return {"kind": "memory", "detail": first_line(cause)}
        cause = cause.__cause__
    if isinstance(error, SepifyError):
        return {"kind": "raised", "type": type(error).__name__, "detail": str(error)}
    return {"kind": "error", "detail": f"{type(error).__name__}: {first_line(error)}"}


def _outcome(child: _Child, limits: Limits) -> Ending:
    content, in_time = _read(child.answer, child.start + _PATIENCE * limits.seconds)
    if content and in_time:
        return _read_answer(content)
    cause = _signal_of(child.pid) if in_time else signal.SIGXCPU
    if cause == signal.SIGXCPU:
        return Ending("time")
    return Ending("crash", signal.Signals(cause).name if cause else "it gave no answer")


def _signal_of(pid: int) -> int:
    """The signal that has ended the child, which answers no more; 0 if it was none, or no one can
    say."""
    for _ in range(100):
        try:
            found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:  # somebody else has waited for it
            return 0
        if found is not None:
            return 0 if found.si_code == os.CLD_EXITED else found.si_status
        time.sleep(0.02)
    return 0


def _read(descriptor: int, seconds: float) -> tuple[bytes, bool]:
    """Everything until the other side ends, and whether it did in time."""
    deadline, content = time.monotonic() + seconds, b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(content) < _MOST_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0:
            return content, False
        if poll.poll(1000 * min(left, 60)):
            part = os.read(descriptor, _MOST_ANSWER)
            if not part:
                break
            content += part
    return content, True


def _read_answer(content: bytes) -> Ending:
    """How the child says it ended: what it says is not trusted either."""
    try:
        answer = json.loads(content)
        kind, detail = str(answer["kind"]), str(answer.get("detail", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Ending("crash", "it gave no readable answer")
    if kind == "raised":
        for found in SepifyError.__subclasses__():
            if found.__name__ == answer.get("type"):
                raise found(detail)
    return Ending(kind if kind in ("done", "memory", "error") else "crash", detail)


@contextmanager
def _ended_at_last(pid: int) -> Iterator[None]:
    """Whatever happens, the child and what it has started are gone afterwards."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
