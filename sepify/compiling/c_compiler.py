"""A C compiler at work: what it says when it fails, in a sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sepify.errors import CompileError, FileError
from sepify.storage import want_of_room

_COMPILERS = ("cc", "gcc", "clang", "c++", "g++", "clang++")
_SECONDS = 120


def system_compiler() -> str | None:
    """The first of the usual names that there is, or what CXX or CC says."""
    told = (os.environ.get(name, "") for name in ("CXX", "CC"))
    return next(filter(shutil.which, (*_COMPILERS, *told)), None)


def run_compiler(compiler: str, arguments: Sequence[str | Path], output: Path) -> None:
    """Have it write `output`. Raises CompileError with the first error that it reports, FileError
    where there is no room for what it writes."""
    command = [compiler, *map(str, arguments), "-o", str(output)]
    english = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env=english,
        )
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{compiler} did not finish within {_SECONDS} s") from error
    except OSError as error:
        raise CompileError(f"{compiler} could not be started: {error.strerror}") from error
    if not done.returncode:
        return
    if why := want_of_room(done.stdout):
        raise FileError(
            f"cannot write {output}: {compiler} found no room ({why}); make some there and in "
            f"{tempfile.gettempdir()}, where it keeps what it works on"
        )
    lines = [line for line in done.stdout.splitlines() if "error" in line.lower()]
    lines = lines or done.stdout.splitlines() or [f"exit code {done.returncode}"]
    raise CompileError(f"{compiler} failed: {lines[0].strip()}")
