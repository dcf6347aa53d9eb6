"""Times candidates on all boards of a farm at once. A board that dies, hangs or loses its link is
left alone until it answers again, and what it was doing is done on another; when nothing has been
heard of any board for a while, there is none left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from sepify.compiling.bundle.toolchain import require_compiler
from sepify.compiling.device.boards import Board, Farm, greet, probe_farm, request
from sepify.compiling.kernel_tuning.bench import question
from sepify.compiling.kernel_tuning.process import Process
from sepify.compiling.kernel_tuning.records import Record
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.targets import Target
from sepify.errors import DeviceError
from sepify.process.starting import python_command

WORKER = python_command("sepify.compiling.device.worker")
_BUILD_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_LATE_SECONDS = 5.0  # that a board may be late in ending what has taken too long
_PATIENCE = 10.0  # without word from any board, beyond what one with a candidate may need
_TRIES = 2  # times that a candidate may be lost before it is to blame itself
_LOOKS = 2.0  # seconds between looks whether a board is back


@dataclass
class _Job:
    """A candidate, and the slots that have lost it."""

    workload: Workload
    knobs: Knobs
    lost_by: list[int] = field(default_factory=list)


@dataclass
class _Slot:
    """One candidate at a time: with a board of its own, or with the tracker's next free one."""

    number: int
    board: Board | None
    process: Process
    away: bool = False  # its board did not answer, or the tracker has none


class BoardBench:
    """A thread and a building process for each board, or for each that the tracker knows."""

    def __init__(
        self, farm: Farm, target: Target, slots: int, patience: float | None = None
    ) -> None:
        """`slots` is the number of boards with a tracker; those named by address are all used.
        `patience`: seconds without word from any board after which there is none."""
        assert target.description is not None  # find_target has filled them in
        assert target.machine is not None
        opening = {
            "target": target.description,
            "machine": asdict(target.machine),
            "compiler": require_compiler(target),
            "secret": farm.secret,
            "limit": farm.limit,
        }
        self._farm = farm
        timing = farm.limit + _LATE_SECONDS
        self._limits = {"": _BUILD_SECONDS, "built": _CONNECT_SECONDS, "connected": timing}
        longest = max(_BUILD_SECONDS + _CONNECT_SECONDS, timing)
        self._patience = longest + _PATIENCE if patience is None else patience
        boards = [None] * slots if farm.tracker is not None else list(farm.boards)
        self._slots = [_Slot(n, board, Process(WORKER, opening)) for n, board in enumerate(boards)]
        self._state = threading.Condition()  # of everything below
        self._ended = False
        self._jobs: list[_Job] = []
        self._done: list[tuple[Workload, Record]] = []
        self._failure: Exception | None = None
        self._trouble = "none answers"
        self._heard = time.monotonic()
        self._starting = 0  # slots whose process is not up yet: no board is to blame for that
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in self._slots
        ]
        for thread in self._threads:
            thread.start()

    @property
    def slots(self) -> int:
        """How many candidates it has use for at once."""
        return len(self._slots)

    @property
    def words(self) -> str:
        """How many boards there are, and how many of them are at work."""
        there = sum(not slot.away for slot in self._slots)
        of = f" of {self.slots}" if there < self.slots else ""
        return f" on {there}{of} board{'s' * (self.slots > 1)}"

    def submit(self, workload: Workload, knobs: Knobs) -> None:
        """Hand in a candidate."""
        with self._state:
            self._jobs.append(_Job(workload, knobs))
            self._state.notify_all()

    def collect(self) -> tuple[Workload, Record]:
        """Wait for one of the candidates: its times, or an error if it failed or was lost twice.

        Raises DeviceError when no board is left, CompileError if no process can be started.
        """
        with self._state:
            while not self._done:
                if self._failure is not None:
                    raise self._failure
                if self._starting:
                    self._heard = time.monotonic()
                if time.monotonic() - self._heard > self._patience:
                    raise DeviceError(
                        f"no board is left ({self._trouble}); what was measured is kept: run it "
                        "again to go on"
                    )
                self._state.wait(0.5)
            return self._done.pop(0)

    def close(self) -> None:
        """Take back what is not done, and end threads and processes."""
        with self._state:
            self._ended = True
            self._state.notify_all()
        for slot in self._slots:
            slot.process.end()
        for thread in self._threads:
            thread.join()

    def _serve(self, slot: _Slot) -> None:
        """The life of a slot, in a thread of its own."""
        try:
            while self._is_back(slot) and (job := self._take(slot)) is not None:
                self._try(slot, job)
        except Exception as error:  # for whoever collects
            with self._state:
                self._failure = self._failure or error
                self._state.notify_all()
        finally:
            slot.process.close()

    def _is_back(self, slot: _Slot) -> bool:
        """Wait for a slot's own board to answer, if it was lost; False at the end."""
        while slot.away and slot.board is not None and not self._ended:
            try:
                greet(slot.board, self._farm.secret)
                slot.away = False
                self._hear()
            except DeviceError as error:
                with self._state:
                    self._trouble = str(error)
                    self._state.wait_for(lambda: self._ended, _LOOKS)
        return not self._ended

    def _take(self, slot: _Slot) -> _Job | None:
        """The next candidate, rather one that was not lost here; None at the end."""
        with self._state:
            while not self._ended:
                others = any(not other.away for other in self._slots if other is not slot)
                for job in self._jobs:
                    if slot.number not in job.lost_by or not others:
                        self._jobs.remove(job)
                        return job
                self._state.wait(0.5)
            return None

    def _board(self, slot: _Slot) -> Board | None:
        """The slot's own board, or the tracker's next free one; None at the end."""
        if slot.board is not None:
            return slot.board

        def go_on() -> bool:
            slot.away = True
            return not self._ended

        while not self._ended:
            try:
                board = request(self._farm, go_on)
                slot.away = False
                return board
            except DeviceError as error:  # the tracker may come back too
                with self._state:
                    slot.away = True
                    self._trouble = str(error)
                    self._state.wait_for(lambda: self._ended, _LOOKS)
        return None

    def _try(self, slot: _Slot, job: _Job) -> None:
        board = self._board(slot)
        if board is None:
            return
        self._start(slot)
        asked = question(job.workload, job.knobs)
        asked["board"] = [board.host, board.port, board.match]
        answer = slot.process.ask(asked, self._limits, self._hear)
        where = answer.get("stage")
        if "seconds" in answer:
            times = float(answer["seconds"]), float(answer["relative"])
            self._answer(job, Record(job.knobs, *times))
        elif "error" in answer and where in (None, ""):  # of the candidate, or of building it
            self._answer(job, Record(job.knobs, None, None, str(answer["error"])))
        else:
            cause = str(answer.get("lost") or answer.get("unreached") or answer["error"])
            reached = "lost" in answer or where == "connected"
            self._lose(slot, job, f"{board}: {cause}", reached)

    def _start(self, slot: _Slot) -> None:
        if slot.process.is_running or self._ended:
            return
        with self._state:
            self._starting += 1
        try:
            slot.process.start()
        finally:
            with self._state:
                self._starting -= 1
                self._heard = time.monotonic()

    def _answer(self, job: _Job, record: Record) -> None:
        with self._state:
            self._heard = time.monotonic()
            self._done.append((job.workload, record))
            self._state.notify_all()

    def _lose(self, slot: _Slot, job: _Job, cause: str, reached: bool) -> None:
        """Do it again elsewhere; one that was lost twice once it was there is to blame."""
        with self._state:
            slot.away = True
            self._trouble = cause
            if reached:
                job.lost_by.append(slot.number)
            if len(job.lost_by) < _TRIES:
                self._jobs.insert(0, job)
            else:
                error = f"lost {_TRIES} times: {cause}"
                self._done.append((job.workload, Record(job.knobs, None, None, error)))
            self._state.notify_all()

    def _hear(self, stage: str = "connected") -> None:
        """A board has answered."""
        if stage == "connected":
            with self._state:
                self._heard = time.monotonic()


@contextmanager
def open_board_bench(farm: Farm, target: Target) -> Iterator[BoardBench]:
    """A bench on the boards of `farm`, probed first. Raises DeviceError where none can be used."""
    bench = BoardBench(farm, target, probe_farm(farm))
    try:
        yield bench
    finally:
        bench.close()
