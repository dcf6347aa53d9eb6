"""A model's file is loaded and run for the first time in a child process, under limits.

TorchScript is a program: it may loop or allocate for ever, and the loaders of torch are C++ that a
damaged file may crash. Whatever happens there happens to the child.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from sepify.errors import CaptureError, FileError, SepifyError, UsageError
from sepify.formats.input_note import InputNote, InputRequest, torch_dtype
from sepify.formats.table import Format
from sepify.process.child import Ending, do_in_child
from sepify.process.confinement import Limits, spare_memory

SECONDS, MEMORY = "SEPIFY_TRIAL_SECONDS", "SEPIFY_TRIAL_GIB"

_MB, _GIB = 1e6, 1 << 30
# ResNet-18 takes 0.2 s of processor time; a network for large pictures minutes
_SECONDS, _SECONDS_A_MB = 30.0, 0.5
_MEMORY, _COPIES, _MAPS = 4 * _GIB, 8, 200  # of the file; of the inputs, in activations

_tried: set[tuple[Any, ...]] = set()


def try_file(path: Path, asked: InputRequest, kind: Format) -> None:
    """Load `path` and run it on its example input in a child process; not again for the same file
    and inputs in one process. Raises what loading and running raise there; FileError if the child
    crashed; CaptureError if it took too long or too much memory; UsageError for a limit in the
    environment that is no number.
    """
    limits = _limits(path, asked, _glimpse(path, kind))
    if limits.seconds == 0:
        return
    there = path.stat()
    identity = (path.resolve(), there.st_ino, there.st_size, there.st_mtime_ns, asked)
    if identity in _tried:
        return
    try:
        ending = do_in_child(kind.reader.run_model, {"spec": str(path), **asdict(asked)}, limits)
    except OSError as error:
        raise FileError(f"cannot start the process that tries {path} first: {error}") from error
    if ending.kind != "done":
        raise _error(path, ending, limits)
    _tried.add(identity)


def _glimpse(path: Path, kind: Format) -> InputNote | None:
    """What the file notes of its inputs, if that can be read."""
    try:
        return kind.reader.noted_inputs(path)
    except FileError:
        return None  # reading it in earnest will say why


def _limits(path: Path, asked: InputRequest, noted: InputNote | None) -> Limits:
    shapes = asked.shapes or (noted.shapes if noted else ())
    dtypes = asked.dtypes or (noted.dtypes if noted else ()) or ("float32",)
    width = max(torch_dtype(dtype).itemsize for dtype in dtypes)
    most, size = spare_memory() or 1 << 40, path.stat().st_size
    inputs = min(width * sum(map(prod, shapes)), most)
    seconds = _from_environment(SECONDS, _SECONDS + _SECONDS_A_MB * (inputs + size) / _MB)
    memory = min(_MEMORY + _COPIES * size + _MAPS * inputs, most)
    return Limits(seconds, round(_GIB * _from_environment(MEMORY, memory / _GIB)))


def _from_environment(name: str, otherwise: float) -> float:
    text = os.environ.get(name, "")
    if not text:
        return otherwise
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0 <= value < 1e9:
            return value
    raise UsageError(f"{name}={text} is not a number of {'seconds' if name == SECONDS else 'GiB'}")


def _error(path: Path, ending: Ending, limits: Limits) -> SepifyError:
    where = "in the child process that loads and runs a file first"
    if ending.kind == "time":
        return CaptureError(
            f"{path} did not end within {limits.seconds:.0f} s of processor time {where}; if it is "
            f"only slow, set {SECONDS} to more"
        )
    if ending.kind == "memory":
        return CaptureError(
            f"{path} needs more than the {limits.memory / _GIB:.1f} GiB of memory that it may take "
            f"{where}; if it is only large, set {MEMORY} to more"
        )
    if ending.kind == "crash":
        return FileError(
            f"{path} crashes torch ({ending.detail}) {where}; it is damaged, or made to do harm"
        )
    return CaptureError(f"{path} cannot be loaded and run: {ending.detail}")
