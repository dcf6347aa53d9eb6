"""Where in the source a TorchScript node comes from, in words."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

_SCRIPTED = re.compile(r'File "([^"]+)", line (\d+)')  # torch.jit.script, or a loaded file
_TRACED = re.compile(r"^(?P<file>[^\s()][^()\n]*)\((?P<line>\d+)\): (?P<function>\w+)", re.M)


def source_line(node: Any) -> str:
    """`model.py, line 12: `if x.sum() > 0:``; as much of it as the file holds.

    A saved file keeps the original source lines of a script, and the call stack of a trace.
    Some nodes have no place of their own; then it is that of what they use.
    """
    for candidate in (node, *reversed([value.node() for value in node.inputs()])):
        told = _told(candidate.sourceRange())
        if told:
            return told
    return "in a place that the file does not name"


def _told(text: str) -> str:
    scripted = _SCRIPTED.search(text)
    if scripted is not None:
        file, line = scripted.groups()
        code = _marked_line(text[scripted.end() :])
        return f"{file}, line {line}" + (f": `{code}`" if code else "")
    frames = list(_TRACED.finditer(text))
    own = [frame for frame in frames if "/torch/" not in frame["file"]] or frames
    return f"{own[0]['file']}, line {own[0]['line']}, in {own[0]['function']}" if own else ""


def _marked_line(text: str) -> str:
    """The first line with `~~~` under it."""
    lines = text.splitlines()
    for line, below in pairwise(lines):
        if below.strip().startswith("~"):
            return line.strip()
    return ""
