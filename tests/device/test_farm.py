"""Tuning over RPC on two emulated boards, through TVM's own tracker; loopback only."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sepify.compiling import make_bundle
from sepify.compiling.device.boards import find_farm, probe_farm
from sepify.compiling.device.timing import time_bundle
from sepify.errors import DeviceError

TARGET = "raspberry-pi-4"
LIMIT = 20.0  # seconds of one measurement


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def tracker():
    port = free_port()
    command = [sys.executable, "-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--port-end", str(port + 1)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGKILL)  # it has a child that listens
    process.wait()


@pytest.fixture
def start_board(start, tracker):
    """Starts boards that the tracker knows."""

    def board():
        process, _ = start("--tracker", tracker, "--key", "pi4")
        assert "registered" in process.stdout.readline()
        return process

    return board


@pytest.fixture
def boards(start_board):
    """Two of them."""
    return [start_board(), start_board()]


def tune(farm, folder, trials=8):
    model = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()).eval()
    x = torch.randn(1, 16, 10, 10)
    database = folder / "database"
    return make_bundle(
        model, x, TARGET, folder / "out", kind="c", tune=trials, farm=farm, database=database
    )


def records(folder):
    path = folder / "database" / "kernels.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def farm_of(tracker, secret, key="pi4"):
    return replace(find_farm(tracker, key, None, secret), limit=LIMIT)


class Sessions:
    """Looks, all the time, which servers have a session: it is a process of its own."""

    def __init__(self, boards):
        self.lists = [Path(f"/proc/{board.pid}/task/{board.pid}/children") for board in boards]
        self.ended = False
        self.seen = set()  # (first has one, second has one)
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self):
        while not self.ended:
            self.seen.add(tuple(bool(each.read_text()) for each in self.lists))
            time.sleep(0.002)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_error):
        self.ended = True
        self.thread.join()


def test_eight_trials_on_two_boards_at_the_same_time(boards, tracker, secret, tmp_path):
    farm = farm_of(tracker, secret)
    assert probe_farm(farm) == 2
    with Sessions(boards) as sessions:
        made = tune(farm, tmp_path)
    assert (True, True) in sessions.seen
    assert made.trials == len(records(tmp_path)) == 8
    assert made.failed == 0
    assert "passed" in made.tested.words


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_board_that_dies_or_hangs_in_mid_tuning(boards, tracker, secret, tmp_path, fault):
    def strike():
        while not records(tmp_path):
            time.sleep(0.2)
        os.killpg(boards[0].pid, fault)

    threading.Thread(target=strike, daemon=True).start()
    made = tune(farm_of(tracker, secret), tmp_path, trials=4)
    assert made.trials == 4
    assert made.failed == 0


def test_with_no_board_left_tuning_stops_and_keeps_what_it_has(boards, tracker, secret, tmp_path):
    struck = []

    def strike():
        while not records(tmp_path):
            time.sleep(0.2)
        for board in boards:
            os.killpg(board.pid, signal.SIGKILL)
        struck.append(time.monotonic())

    threading.Thread(target=strike, daemon=True).start()
    with pytest.raises(DeviceError, match="no board"):
        tune(farm_of(tracker, secret), tmp_path, trials=500)
    assert time.monotonic() - struck[0] < 60  # what the issue allows, not a speed
    assert records(tmp_path)
    assert not (tmp_path / "out").exists()


def test_boards_that_reboot_are_taken_back(boards, start_board, tracker, secret, tmp_path):
    """The first one dies, then the second, while the first is on its way up again."""

    def strike():
        while not records(tmp_path):
            time.sleep(0.2)
        for board in boards:
            os.killpg(board.pid, signal.SIGKILL)
        start_board()

    threading.Thread(target=strike, daemon=True).start()
    made = tune(farm_of(tracker, secret), tmp_path, trials=4)
    assert made.trials == 4
    assert made.failed == 0


def test_boards_that_were_just_spoken_to_are_waited_for(boards, tracker, secret):
    farm = farm_of(tracker, secret)
    assert [probe_farm(farm) for _ in range(6)] == [2] * 6


def test_no_board_for_the_key(boards, tracker, secret):
    with pytest.raises(DeviceError, match="has no board for key 'other'"):
        probe_farm(farm_of(tracker, secret, "other"))


def test_latency_on_a_board_of_the_tracker(boards, bundle, tracker, secret, tmp_path):
    farm = farm_of(tracker, secret)
    found = time_bundle(bundle, farm, 2)
    assert (found.least, found.median) == (None, None)  # it is emulated
    assert found.board == f"pi4 at {tracker}"
    with pytest.raises(DeviceError, match="has no board for key 'other'"):
        time_bundle(bundle, farm_of(tracker, secret, "other"), 2)
    (tmp_path / "other.txt").write_text("another-secret-of-length\n")
    with pytest.raises(DeviceError, match="cannot be used"):
        time_bundle(bundle, farm_of(tracker, tmp_path / "other.txt"), 2)


def test_wrong_secret(boards, tracker, tmp_path):
    (tmp_path / "other.txt").write_text("another-secret-of-length\n")
    with pytest.raises(DeviceError, match="wrong secret"):
        probe_farm(farm_of(tracker, tmp_path / "other.txt"))
