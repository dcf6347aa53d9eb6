"""The object files of a module. LLVM ends the process in which it cannot write one, so that another
writes them: a fork, which does nothing else."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from sepify.errors import CompileError, FileError, first_line
from sepify.storage import ROOM_ELSEWHERE, want_of_room


def write_objects(module: Any, folder: Path) -> list[Path]:
    """The code of a module that TVM has built, and what it imports, as object files in `folder`.
    Raises FileError where there is no room for them, CompileError where LLVM fails."""

    def write() -> None:
        module.export_library(
            str(folder / "library"), fcompile=_leave_apart, workspace_dir=str(folder)
        )

    ended, said = _in_a_fork(write)
    if ended:
        if why := want_of_room(said):
            raise FileError(f"cannot write compiled code to {folder}: {why}; {ROOM_ELSEWHERE}")
        lines = said.strip().splitlines() or [f"it was ended by {_ending(ended)}"]
        raise CompileError(f"LLVM could not write the compiled code: {lines[-1]}")
    return sorted(folder.glob("*.o"))


def _leave_apart(_library: str, _objects: list[str], **_options: Any) -> None:
    """In the place of a linker."""


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _in_a_fork(work: Callable[[], None]) -> tuple[int, str]:
    """The exit code of a process that did `work`, negative for a signal, and what it printed."""
    reading, writing = os.pipe()
    with open(reading, "rb") as said:  # noqa: PTH123
        try:
            with warnings.catch_warnings():  # Python 3.12 warns where there are other threads
                warnings.simplefilter("ignore")
                child = os.fork()
            if child == 0:
                _be_child(work, writing)
        finally:
            os.close(writing)
        try:
            text = said.read().decode(errors="replace")
            _, status = os.waitpid(child, 0)
        except BaseException:  # Ctrl-C
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            raise
    return os.waitstatus_to_exitcode(status), text


def _be_child(work: Callable[[], None], writing: int) -> NoReturn:
    code = 1
    try:
        os.setsid()  # Ctrl-C is for the parent to handle
        gc.disable()
        signal.set_wakeup_fd(-1)
        faulthandler.disable()
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        try:
            work()
            code = 0
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {first_line(error)}\n".encode())
    finally:
        os._exit(code)
