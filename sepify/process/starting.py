"""Which of several processes this one is, asked before torch is loaded; how others are started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Neither of the folder that a process is started in nor of an empty entry of PYTHONPATH anything is
# imported. (`-P` does half of it, from Python 3.11 on.) What is named next runs as with `-m`.
_START = """
import sys
root = sys.argv[1]
sys.path[:] = [place for place in sys.path if place]
if root not in sys.path:
    sys.path.insert(0, root)
del sys.argv[:2]
import runpy
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that `accelerate launch` (or
    torchrun) began: the one that writes files and speaks."""
    return os.environ.get("RANK", "0") == "0"


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """A command line that runs `module` as `python -m` does, but imports nothing from the current
    folder; our own modules are found where this process found them."""
    return (sys.executable, "-c", _START, str(Path(__file__).parents[2]), module, *arguments)


def leave_current_folder() -> None:
    """Take the current folder out of the places where programs and libraries are looked for: an
    empty entry or "." in PATH and the like."""
    for name in ("PATH", "LD_LIBRARY_PATH"):
        places = os.environ.get(name, "").split(os.pathsep)
        if {"", "."} & set(places) and any(places):
            os.environ[name] = os.pathsep.join(p for p in places if p not in ("", "."))


def python_environment() -> dict[str, str]:
    """The environment for it, and for the interpreters that it may start itself: without empty
    entries in PYTHONPATH, which are the current folder."""
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    places = environment.pop("PYTHONPATH", "").split(os.pathsep)
    if any(places):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    return environment
