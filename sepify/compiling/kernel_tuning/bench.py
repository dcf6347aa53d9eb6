"""The other end of the worker: starts it, asks it, and outlives its crashes and its hangs."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sepify.compiling.kernel_tuning.records import Record
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.shapes import Machine
from sepify.compiling.kernels.workload import Workload
from sepify.errors import CompileError

WORKER = (sys.executable, "-m", "sepify.compiling.kernel_tuning.worker")
_START_SECONDS = 120.0  # torch and tvm are slow to load on a busy machine
_CANDIDATE_SECONDS = 60.0  # to build and time one


class Bench:
    """Times candidates one after another. Use `open_bench`, which also ends the worker."""

    def __init__(
        self,
        target: dict[str, Any],
        machine: Machine,
        command: Sequence[str],
        limit: float,
    ) -> None:
        self._opening: dict[str, Any] = {"target": target, "machine": asdict(machine)}
        self._command = list(command)
        self._limit = limit
        self._process: subprocess.Popen[str] | None = None

    def measure(self, workload: Workload, knobs: Knobs) -> Record:
        """Time a candidate; a record with an error if it failed, crashed or took too long.

        Raises CompileError if no worker can be started.
        """
        process = self._process or self._start()
        request = {"workload": json.loads(workload.key), "knobs": asdict(knobs)}
        answer = self._ask(process, request, self._limit)
        if "error" in answer:
            return Record(knobs, None, None, str(answer["error"]))
        return Record(knobs, float(answer["seconds"]), float(answer["relative"]))

    def close(self) -> None:
        """End the worker."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        package = Path(__file__).parents[3]  # where sepify lies, however it was found
        path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        one = {"TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **one},
            start_new_session=True,  # Ctrl-C is for us to handle
        )
        answer = self._ask(self._process, self._opening, _START_SECONDS)
        if self._process is None or "ready" not in answer:
            raise CompileError(f"the process that times kernels does not start: {answer['error']}")
        return self._process

    def _ask(
        self, process: subprocess.Popen[str], request: dict[str, Any], limit: float
    ) -> dict[str, Any]:
        """The worker's answer; an error, and no worker any more, if none comes."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], limit)
            line = process.stdout.readline() if ready else None
        except BrokenPipeError:
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        if line is None:
            self.close()
            return {"error": f"took more than {limit:.0f} s"}
        code = process.wait()
        self.close()
        return {"error": f"crashed: {_cause(code)}"}


@contextmanager
def open_bench(
    target: dict[str, Any],
    machine: Machine,
    command: Sequence[str] = WORKER,
    limit: float = _CANDIDATE_SECONDS,
) -> Iterator[Bench]:
    """A bench for one target, whose worker is started when it is first needed; `limit` is in
    seconds, for one candidate."""
    bench = Bench(target, machine, command, limit)
    try:
        yield bench
    finally:
        bench.close()


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
