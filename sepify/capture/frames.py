"""Which line of the model's own code is running, or failed."""

from __future__ import annotations

import inspect
import linecache
import os
import traceback
from pathlib import Path

import torch

_HERE = Path(__file__).parent
_OURS = tuple(f"{p}{os.sep}" for p in (Path(torch.__file__).parent, _HERE, _HERE.parent / "graph"))


def running_line() -> str:
    """The innermost line of the model's own code that is running."""
    frame = inspect.currentframe()
    while frame is not None:
        if not frame.f_code.co_filename.startswith(_OURS):
            path, line = frame.f_code.co_filename, frame.f_lineno
            return f"{path}, line {line}: `{linecache.getline(path, line).strip()}`"
        frame = frame.f_back
    return "a place that is not known"


def failed_line(error: Exception) -> str:
    """The innermost line of the model's own code that led to `error`; "" if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if not f.filename.startswith(_OURS) and f.line]
    return f"{users[-1].filename}, line {users[-1].lineno}: `{users[-1].line}`" if users else ""
