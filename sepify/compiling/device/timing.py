"""The latency of a runtime bundle on the board itself, over RPC, by TVM's time_evaluator."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sepify.compiling.bundle.checksums import check_checksums
from sepify.compiling.device.boards import Farm, probe_farm, request
from sepify.errors import CompileError, DeviceError, FileError, UsageError
from sepify.storage import read_json

_START_SECONDS = 60  # until tvm is loaded here


@dataclass(frozen=True)
class BoardLatency:
    """Milliseconds of single inferences on the board named, in TVM's own number of threads."""

    board: str
    runs: int
    least: float
    median: float


def time_bundle(folder: Path, farm: Farm, runs: int) -> BoardLatency:
    """Upload the network of a runtime bundle to the first board named, or the tracker's next free
    one, and time it there.

    Raises FileError for a damaged or another kind of folder, DeviceError where it does not
    answer in time, CompileError where the network fails there.
    """
    if runs < 1:
        raise UsageError(f"--runs {runs}: at least one")
    check_checksums(folder)
    facts = read_json(folder / "model.json")
    if facts.get("kind") != "runtime":
        raise FileError(f"{folder} is no bundle with TVM's runtime: only those can be sent")
    probe_farm(farm)
    board = request(farm) if farm.tracker is not None else farm.boards[0]
    opening = {
        "board": [board.host, board.port, board.match],
        "secret": farm.secret,
        "limit": farm.limit,
        "library": str((folder / "module.so").resolve()),
        "shapes": [value["shape"] for value in facts["inputs"]],
        "dtypes": [value["dtype"] for value in facts["inputs"]],
        "runs": runs,
    }
    command = [sys.executable, "-m", "sepify.compiling.device.timing"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(opening),
            capture_output=True,
            text=True,
            timeout=farm.limit + _START_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"the board at {board} did not answer in {farm.limit:.0f} s") from error
    if done.returncode:
        cause = (done.stderr.strip().splitlines() or ["the session ended"])[-1]
        raise CompileError(f"the network could not be timed on {board}: {cause[:300]}")
    times = sorted(1e3 * seconds for seconds in json.loads(done.stdout.splitlines()[-1]))
    return BoardLatency(str(board), runs, times[0], times[len(times) // 2])


def _time_there(opening: dict[str, object]) -> list[float]:
    """In a process of its own, which is ended when the board hangs: seconds of each run."""
    from sepify.compiling import tvm_api

    return tvm_api.time_remotely(**opening)  # type: ignore[arg-type]


if __name__ == "__main__":
    print(json.dumps(_time_there(json.loads(sys.stdin.read()))))
