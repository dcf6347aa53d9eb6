"""Latencies on a board, over RPC, by TVM's time_evaluator there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sepify.compiling.bundle.checksums import check_checksums
from sepify.compiling.device.boards import Farm, look_for_board, request
from sepify.compiling.device.facts import BoardFacts, read_facts
from sepify.compiling.kernel_tuning.process import Process
from sepify.errors import CompileError, DeviceError, FileError, UsageError
from sepify.process.starting import python_command
from sepify.storage import decode, read_json

Samples = NDArray[np.float64]

WORKER = python_command("sepify.compiling.device.timing_worker")
_CONNECT_SECONDS = 10.0
_LATE_SECONDS = 5.0  # that a board may be late in ending what has taken too long


@dataclass(frozen=True)
class Value:
    """A tensor in a file of its own, raw."""

    file: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Network:
    """A network linked for a board, with inputs and with the outputs that torch gives for them."""

    library: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    tolerance: float


@dataclass(frozen=True)
class Turns:
    """How networks take turns on a board: rounds for about `seconds`, within `rounds`; in each,
    every network has one inference that is not timed, then `repeats` times the mean of as many
    as fill `least_ms`. `threads` None: one for each core."""

    threads: int | None
    seconds: float = 0.0
    rounds: tuple[int, int] = (1, 1)
    repeats: int = 1
    least_ms: int = 0


class BoardTimer:
    """Has the first board of a farm, or its tracker's next free one, time networks: each time in a
    session of its own. `threads` are those that TVM takes there when it is not told."""

    def __init__(self, farm: Farm) -> None:
        """Asks the board what it is. Raises DeviceError where it cannot be reached or refuses."""
        self._farm = farm
        self._process = Process(WORKER, {})
        look_for_board(farm)
        self.facts, self.threads, _ = self._ask((), Turns(None))

    def race(self, networks: Sequence[Network], turns: Turns) -> Samples:
        """Seconds of every timed inference, (networks, rounds, repeats).

        Raises DeviceError where the board is lost or another one answers, CompileError where a
        network gives something else there than torch.
        """
        facts, _, samples = self._ask(networks, turns)
        if facts.identity != self.facts.identity:
            raise DeviceError(
                f"the boards of {self._farm} are not of one kind ({self.facts.identity}; "
                f"{facts.identity}): give each kind a key of its own"
            )
        return samples

    def close(self) -> None:
        """End the process; it is started again when it is needed."""
        self._process.close()

    def _ask(self, networks: Sequence[Network], turns: Turns) -> tuple[BoardFacts, int, Samples]:
        farm = self._farm
        self._process.start()  # first: a match key of the tracker's does not wait for ever
        board = request(farm) if farm.tracker is not None else farm.boards[0]
        asked = {
            "board": [board.host, board.port, board.match],
            "secret": farm.secret,
            "limit": farm.session,
            "networks": [asdict(network) for network in networks],
            **asdict(turns),
        }
        limits = {"": _CONNECT_SECONDS, "connected": farm.session + _LATE_SECONDS}
        answer = self._process.ask(asked, limits)
        if "board" in answer:
            return read_facts(answer["board"]), answer["threads"], np.array(answer["samples"])
        if "error" in answer and "stage" not in answer:
            raise CompileError(f"nothing was timed on the board at {board}: {answer['error']}")
        if "unreached" in answer:
            cause = str(answer["unreached"]).rpartition(" is false: ")[2]  # TVM shows its check
            raise DeviceError(f"the board at {board} cannot be used: {cause}")
        cause = answer.get("lost") or answer["error"]
        raise DeviceError(
            f"the board at {board} was lost ({cause}): see to it, and run the command again"
        )


@contextmanager
def open_timer(farm: Farm) -> Iterator[BoardTimer]:
    """A timer, ended with the block. Raises what `BoardTimer` does."""
    timer = BoardTimer(farm)
    try:
        yield timer
    finally:
        timer.close()


@dataclass(frozen=True)
class BoardLatency:
    """Milliseconds of single inferences on the board named, in TVM's own number of threads; None
    on an emulator, whose times say nothing about a board's."""

    board: str
    runs: int
    least: float | None
    median: float | None


def time_bundle(folder: Path, farm: Farm, runs: int) -> BoardLatency:
    """Upload the network of a runtime bundle to a board and time it there.

    Raises FileError for a damaged or another kind of folder, and what `BoardTimer` does.
    """
    if runs < 1:
        raise UsageError(f"--runs {runs}: at least one")
    check_checksums(folder)
    network = _read_network(folder)
    with open_timer(farm) as timer:
        times = 1e3 * np.sort(timer.race([network], Turns(None, repeats=runs)).ravel())
        if timer.facts.emulated:
            return BoardLatency(str(farm), runs, None, None)
    return BoardLatency(str(farm), runs, float(times[0]), float(times[runs // 2]))


@dataclass(frozen=True)
class _Stored:
    """An example input or output, as `model.json` has it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str


def _read_network(folder: Path) -> Network:
    """What `model.json` says is to be sent: files of that folder, and of no other."""
    path = folder / "model.json"
    facts = read_json(path)
    if not isinstance(facts, dict) or facts.get("kind") != "runtime":
        raise FileError(f"{folder} is no bundle with TVM's runtime: only those can be sent")
    try:
        tolerance = decode(float, facts.get("tolerance"), "tolerance")
        inputs, outputs = (
            tuple(_value(folder, v) for v in decode(list[_Stored], facts.get(side), side))
            for side in ("inputs", "outputs")
        )
    except FileError as error:
        raise FileError(f"{path} is damaged: {error}; make the bundle again") from error
    return Network(str((folder / "module.so").resolve()), inputs, outputs, tolerance)


def _value(folder: Path, given: _Stored) -> Value:
    place = folder / given.stored
    if Path(given.stored).name != given.stored or place.is_symlink() or not place.is_file():
        raise FileError(f"{given.stored!r} is no file of this folder")
    return Value(str(place.resolve()), given.shape, given.dtype)
