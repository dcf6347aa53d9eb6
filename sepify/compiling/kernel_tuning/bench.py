"""Where candidates are timed: what tuning asks of such a place, and this machine as one."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

from sepify.compiling.kernel_tuning.process import Process
from sepify.compiling.kernel_tuning.records import Record
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.process.starting import python_command

WORKER = python_command("sepify.compiling.kernel_tuning.worker")
_CANDIDATE_SECONDS = 60.0  # to build and time one


class Bench(Protocol):
    """Times candidates, some of them at the same time."""

    @property
    def slots(self) -> int:
        """How many candidates it has use for at once."""

    @property
    def words(self) -> str:
        """Where it is, for the progress line: "" or " on 2 boards"."""

    def submit(self, workload: Workload, knobs: Knobs) -> None:
        """Hand in a candidate."""

    def collect(self) -> tuple[Workload, Record]:
        """Wait for one of those handed in: its times, or why it has none. Raises CompileError where
        nothing can be timed, DeviceError where no board is left."""


class LocalBench:
    """This machine: one after another. Use `open_bench`, which also ends the worker."""

    slots = 1
    words = ""

    def __init__(
        self,
        target: dict[str, Any],
        machine: Machine,
        command: Sequence[str],
        limit: float,
    ) -> None:
        self._process = Process(command, {"target": target, "machine": asdict(machine)})
        self._limit = limit
        self._waiting: deque[tuple[Workload, Knobs]] = deque()

    def submit(self, workload: Workload, knobs: Knobs) -> None:
        """Hand in a candidate; it is timed when it is collected."""
        self._waiting.append((workload, knobs))

    def collect(self) -> tuple[Workload, Record]:
        """Time the candidate handed in first."""
        workload, knobs = self._waiting.popleft()
        return workload, self.measure(workload, knobs)

    def measure(self, workload: Workload, knobs: Knobs) -> Record:
        """Time a candidate; a record with an error if it failed, crashed or took too long.

        Raises CompileError if no worker can be started.
        """
        answer = self._process.ask(question(workload, knobs), {"": self._limit})
        if "error" in answer:
            return Record(knobs, None, None, str(answer["error"]))
        return Record(knobs, float(answer["seconds"]), float(answer["relative"]))

    def close(self) -> None:
        """End the worker."""
        self._process.close()


@contextmanager
def open_bench(
    target: dict[str, Any],
    machine: Machine,
    command: Sequence[str] = WORKER,
    limit: float = _CANDIDATE_SECONDS,
) -> Iterator[LocalBench]:
    """A bench for one target, whose worker is started when it is first needed; `limit` is in
    seconds, for one candidate."""
    bench = LocalBench(target, machine, command, limit)
    try:
        yield bench
    finally:
        bench.close()


def question(workload: Workload, knobs: Knobs) -> dict[str, Any]:
    """A candidate, as a worker is asked for it."""
    return {"workload": json.loads(workload.key), "knobs": asdict(knobs)}
