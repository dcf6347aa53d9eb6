"""The process that builds and times candidates: one JSON request a line on stdin, one answer a line
on stdout. A candidate may crash it or hang it; whoever started it notices and starts another.

    {"workload": {...}, "knobs": {...}}  ->  {"seconds": s, "relative": r}  or  {"error": "..."}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from sepify.compiling import thread_pool, tvm_api
from sepify.compiling.kernel_tuning.sample import sample, tolerance
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.table import read_workload
from sepify.compiling.kernels.weights import Array
from sepify.errors import first_line
from sepify.storage import decode

_ROUND_SECONDS = 2e-3  # of each contender, so that the clock's grain does not matter
_TOTAL_SECONDS = 0.2  # of both together
_ROUNDS = (5, 21)  # least, most
_COLD_BYTES = 6 << 20  # of weights to go through: within a network, another layer's were there last
_MOST_COPIES = 64
_SUSPICIOUS = 0.99

Call = Callable[[], None]


class Subject:
    """One workload with its data, and the default kernel to compare with."""

    def __init__(self, workload: Workload, machine: Machine, target: Any) -> None:
        self._machine = machine
        self._target = target
        self.workload = workload
        self._inputs: dict[int, list[list[Any]]] = {}
        self._default = self.prepare(workload.default_knobs(machine))

    def prepare(self, knobs: Knobs) -> Call:
        """The kernel, checked against torch, ready to run. Raises ValueError if it is wrong."""
        kernel = self.workload.kernel(self._machine, knobs)
        function = tvm_api.build_kernel(kernel, self._target)
        inputs = self._inputs_for(knobs)
        function(*inputs[0], self._output)
        error = relative_difference(self._output.numpy(), self._expected)
        if not error <= tolerance(self.workload, self._machine, knobs):
            raise ValueError(f"differs from torch by {error:.1e} of the largest output")
        turn = 0

        def call() -> None:
            nonlocal turn
            turn = (turn + 1) % len(inputs)
            function(*inputs[turn], self._output)

        return call

    def _inputs_for(self, knobs: Knobs) -> list[list[Any]]:
        """Arguments to call with in turn: the same, but for the weights' place in memory."""
        winograd = knobs.winograd  # which decides how weights are packed
        if winograd not in self._inputs:
            arguments, self._expected = sample(self.workload, self._machine, knobs)
            self._output = tvm_api.tensor(np.zeros_like(self._expected))
            x, weights = tvm_api.tensor(arguments[0]), arguments[1:]
            size = sum(array.nbytes for array in weights)
            copies = min(_MOST_COPIES, -(-_COLD_BYTES // size))
            self._inputs[winograd] = [
                [x, *(tvm_api.tensor(array) for array in weights)] for _ in range(copies)
            ]
        return self._inputs[winograd]

    def race(self, candidate: Call) -> tuple[float, float]:
        """Seconds of the candidate, and its time over the default's: they take turns, the fastest
        of each is compared. A win must be won twice: the rest of the machine may have helped."""
        seconds, relative = self._race_once(candidate)
        if relative < _SUSPICIOUS:
            again, second = self._race_once(candidate)
            seconds, relative = min(seconds, again), max(relative, second)
        return seconds, relative

    def _race_once(self, candidate: Call) -> tuple[float, float]:
        once = max(min(_seconds(candidate, 1) for _ in range(3)), 1e-7)
        repeats = max(1, int(_ROUND_SECONDS / once))
        least, most = _ROUNDS
        rounds = max(least, min(most, int(_TOTAL_SECONDS / (2 * repeats * once))))
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for call, taken in zip((candidate, self._default), times, strict=True):
                taken.append(_seconds(call, repeats))
        mine, default = times
        return min(mine), min(mine) / min(default)


def main() -> None:
    """Answer requests until stdin ends. The first line gives target and machine."""
    requests, answers = sys.stdin, private_stdout()
    opening = json.loads(requests.readline())
    target, machine = (
        tvm_api.make_target(opening["target"]),
        decode(Machine, opening["machine"], "machine"),
    )
    thread_pool.use_threads(1)
    subject: Subject | None = None
    answer_on(answers, {"ready": True})
    for line in requests:
        request = json.loads(line)
        try:
            workload = read_workload(request["workload"])
            if subject is None or subject.workload != workload:
                subject = None  # its data first, or there would be two
                subject = Subject(workload, machine, target)
            seconds, relative = subject.race(subject.prepare(Knobs(**request["knobs"])))
            answer_on(answers, {"seconds": seconds, "relative": relative})
        except Exception as error:  # whatever a candidate makes TVM or LLVM raise
            first = first_line(error)
            answer_on(answers, {"error": first[:300]})


def private_stdout() -> TextIO:
    """stdout for the answers alone: what libraries print goes to stderr."""
    sys.stdout.flush()
    private = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return private


def answer_on(answers: TextIO, value: dict[str, Any]) -> None:
    """One line of JSON, at once."""
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _seconds(call: Call, repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def relative_difference(ours: Array, theirs: Array) -> float:
    """Largest |difference| over largest |theirs|; infinite where ours is not finite."""
    if not np.isfinite(ours).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / (np.abs(theirs).max() or 1.0))


if __name__ == "__main__":
    main()
