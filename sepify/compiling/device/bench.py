"""Times candidates on boards: a board that dies or hangs is dropped, and what it was doing is done
again on another."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from sepify.compiling.bundle.toolchain import require_compiler
from sepify.compiling.device.boards import Board, Farm, greet, probe_farm, request
from sepify.compiling.kernel_tuning.bench import Bench
from sepify.compiling.kernel_tuning.records import Record
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.workload import Workload
from sepify.compiling.targets import Target
from sepify.errors import DeviceError

WORKER = (sys.executable, "-m", "sepify.compiling.device.worker")
_BUILD_SECONDS = 10.0  # beside the time that the board may take
_TRIES = 2  # boards on which a candidate may be lost before it is to blame itself


class BoardBench(Bench):
    """As `Bench`, on the boards of a farm, one candidate at a time."""

    def __init__(self, farm: Farm, target: Target) -> None:
        assert target.description is not None  # find_target has filled them in
        assert target.machine is not None
        limit = farm.limit + _BUILD_SECONDS
        super().__init__(target.description, target.machine, WORKER, limit)
        self._opening |= {
            "compiler": require_compiler(target),
            "secret": farm.secret,
            "limit": farm.limit,
        }
        self._farm = farm
        self._boards = list(farm.boards)  # those named by address that have not failed

    def measure(self, workload: Workload, knobs: Knobs) -> Record:
        """Time a candidate; a record with an error if it failed, or was lost on two boards that
        are still there.

        Raises DeviceError when no board is left.
        """
        lost = ""
        for _ in range(_TRIES):
            board = self._next()
            asked = {"workload": json.loads(workload.key), "knobs": asdict(knobs)}
            asked["board"] = [board.host, board.port, board.match]
            answer = self._ask(self._process or self._start(), asked, self._limit)
            if "seconds" in answer:
                return Record(knobs, float(answer["seconds"]), float(answer["relative"]))
            if "lost" not in answer and self._process is not None:
                return Record(knobs, None, None, str(answer["error"]))
            lost = str(answer.get("lost") or answer["error"])
            self._drop_if_dead(board)
        return Record(knobs, None, None, f"lost on {_TRIES} boards: {lost}")

    def _next(self) -> Board:
        """The board to use now; those named by address in turn."""
        if self._farm.tracker is not None:
            return request(self._farm)
        if not self._boards:
            raise DeviceError("no board is left; what was measured is kept: run it again to go on")
        self._boards.append(self._boards.pop(0))
        return self._boards[-1]

    def _drop_if_dead(self, board: Board) -> None:
        """A tracker forgets a board that does not come back; we forget one that does not answer."""
        if self._farm.tracker is not None:
            return
        try:
            greet(board, self._farm.secret)
        except DeviceError:
            self._boards.remove(board)


@contextmanager
def open_board_bench(farm: Farm, target: Target) -> Iterator[Bench]:
    """A bench on the boards of `farm`, probed first. Raises DeviceError where none can be used."""
    probe_farm(farm)
    bench = BoardBench(farm, target)
    try:
        yield bench
    finally:
        bench.close()
