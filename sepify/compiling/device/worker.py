"""The process that builds candidates for a board and has the board time them. As with candidates
that are timed here: one JSON request a line on stdin, one answer a line on stdout, and whoever
started it ends it when it hangs.

    {"workload": {...}, "knobs": {...}, "board": [host, port, match]}
        ->  {"stage": "built"}, {"stage": "connected"}, {"seconds": s, "relative": r}
        or  {"error": "..."}: the candidate's fault; {"unreached": "..."}: the board's;
            {"lost": "..."}: the fault of either
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from sepify.compiling import tvm_api
from sepify.compiling.kernel_tuning.sample import sample, tolerance
from sepify.compiling.kernel_tuning.worker import answer_on, private_stdout, relative_difference
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.table import read_workload
from sepify.errors import first_line
from sepify.storage import decode

_ROUNDS = 3  # of each contender, in turns
_ROUND_MS = 5


@dataclass(frozen=True)
class _Library:
    """A kernel, built, and its knobs."""

    name: str
    path: Path
    knobs: Knobs


def main() -> None:
    """Answer requests until stdin ends. The first line gives target, machine, compiler, secret and
    limit."""
    requests, answers = sys.stdin, private_stdout()
    opening = json.loads(requests.readline())
    answer_on(answers, {"ready": True})
    with tempfile.TemporaryDirectory(prefix="sepify-") as place:
        for line in requests:
            request = json.loads(line)
            answer_on(answers, _answer(request, opening, Path(place), partial(_reach, answers)))


def _reach(answers: TextIO, stage: str) -> None:
    answer_on(answers, {"stage": stage})


def _answer(
    request: dict[str, Any], opening: dict[str, Any], place: Path, reach: Callable[[str], None]
) -> dict[str, Any]:
    machine = decode(Machine, opening["machine"], "machine")
    target = tvm_api.make_target(opening["target"])
    try:
        workload = read_workload(request["workload"])
        contenders = (Knobs(**request["knobs"]), workload.default_knobs(machine))
        libraries = []
        for knobs in contenders:
            kernel = workload.kernel(machine, knobs)
            path = place / f"{kernel.name}.so"
            if not path.exists():
                tvm_api.build_library(kernel, target, path, opening["compiler"])
            libraries.append(_Library(kernel.name, path, knobs))
    except Exception as error:  # whatever a candidate makes TVM, LLVM or the linker raise
        return {"error": first_line(error)[:300]}
    reach("built")
    try:
        host, port, match = request["board"]
        session = tvm_api.connect(host, port, match, opening["secret"], opening["limit"])
    except Exception as error:
        return {"unreached": first_line(error)[:300]}
    reach("connected")
    try:
        return _race(session, workload, machine, libraries)
    except ValueError as error:
        return {"error": str(error)}
    except Exception as error:  # the session ended: its candidate's fault, or the board's
        return {"lost": first_line(error)[:300]}
    finally:
        # the board serves one session at a time: this one ends before the next begins
        del session
        gc.collect()


def _race(
    session: Any, workload: Workload, machine: Machine, libraries: list[_Library]
) -> dict[str, Any]:
    """Seconds of the candidate, and its time over the default's: they take turns on the board."""
    device = session.cpu(0)
    modules: dict[str, Any] = {}
    calls = []
    for library in libraries:
        name = library.name
        if name not in modules:  # the default against itself: one file
            session.upload(str(library.path))
            modules[name] = session.load_module(library.path.name)
        arrays, expected = sample(workload, machine, library.knobs)
        arguments = [tvm_api.tensor(a, device) for a in (*arrays, np.zeros_like(expected))]
        calls.append(arguments)
    first, arguments = libraries[0], calls[0]
    modules[first.name][first.name](*arguments)
    error = relative_difference(arguments[-1].numpy(), expected)
    if not error <= tolerance(workload, machine, first.knobs):
        raise ValueError(f"differs from torch by {error:.1e} of the largest output")
    clocks = [
        modules[library.name].time_evaluator(
            library.name, device, number=1, repeat=1, min_repeat_ms=_ROUND_MS
        )
        for library in libraries
    ]
    contenders = list(zip(clocks, calls, strict=True))
    times = [[clock(*arguments).min for clock, arguments in contenders] for _ in range(_ROUNDS)]
    mine, default = (min(column) for column in zip(*times, strict=True))
    return {"seconds": float(mine), "relative": float(mine / default)}


if __name__ == "__main__":
    main()
