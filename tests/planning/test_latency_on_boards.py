"""Latency tables that a board measures, this machine being the board: loopback only."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Plain, images, seeded
from torch import fx

import sepify
from sepify.cli import main
from sepify.errors import DeviceError, PlanError, UsageError
from sepify.formats.torchscript_write import save_torchscript
from sepify.graph.convolutions import survey
from sepify.graph.maps import measure_maps
from sepify.planning.candidates import Measurements, list_layers
from sepify.planning.latency import LatencyTable, load_table, measure_latencies
from sepify.timing.layers import open_stopwatch

pytest.importorskip("tvm")

TARGET = "x86-64-v3"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def network():
    return fx.symbolic_trace(seeded(Plain(8)))


@pytest.fixture
def farm(board, secret):
    from sepify.compiling import find_farm

    return find_farm(devices=[board[1][1]], secret=secret)


def measurements(network) -> Measurements:
    layers = list_layers(survey(network), measure_maps(network, (images(1),)))
    few = tuple(replace(layer, candidates=layer.candidates[:2]) for layer in layers)
    return Measurements(few, "kl", 1, 0, 4)


def measure(network, farm, known=None, save=None):
    with open_stopwatch(TARGET, farm) as watch:
        return measure_latencies(
            network, (images(1),), measurements(network), TARGET, watch, known, save
        )


def test_a_plan_at_a_shell_whose_table_names_the_board(board, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    save_torchscript(torch.jit.trace(seeded(Plain(8)), images()), "model.pt", [(1, 3, 12, 12)])
    np.save("images.npy", images(64).numpy())
    argv = ["sepify", "plan", "model.pt", "--calibration", "images.npy", "-o", "plan.json"]
    argv += ["--budget", f"latency=100%@{TARGET}", "--latency-table", "table.json", *board[1]]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    table = load_table("table.json")
    assert table.target == TARGET
    assert table.machine.startswith("board: ")
    assert len([key for key in table.seconds if key.endswith(": kept")]) == 2
    assert all(0 < seconds < 1 for seconds in table.seconds.values())
    assert json.loads((tmp_path / "plan.json").read_text())["outlook"]["limit"] > 0
    (tmp_path / "table.json").write_text(
        (tmp_path / "table.json").read_text().replace('"board: ', '"board: another ')
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "measured on another machine (board: another" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_board_that_is_lost_in_the_middle_costs_nothing_that_was_timed(
    network, board, farm, start, secret, fault
):
    from sepify.compiling import find_farm

    saved: list[LatencyTable] = []
    server = board[0].pid

    def strike():
        """In the middle of the next session, which is a process of its own."""
        while not (sessions := Path(f"/proc/{server}/task/{server}/children").read_text().split()):
            time.sleep(0.005)
        for pid in (server, int(sessions[0])):
            os.kill(pid, fault)

    def save(table):
        saved.append(table)
        threading.Thread(target=strike, daemon=True).start()

    with pytest.raises(
        DeviceError, match=r"(was lost|cannot be used).*the latency table has what was timed"
    ):
        measure(network, replace(farm, session=8.0), save=save)
    assert len(saved) == 1
    other = find_farm(devices=[f"127.0.0.1:{start()[1]}"], secret=secret)
    table, keys = measure(network, other, saved[0], saved.append)
    assert len(saved) == 2
    assert len(table.seconds) == 2 * len(saved[0].seconds) == 4
    assert saved[0].seconds.items() < table.seconds.items()
    assert f"{keys['conv2']}: dw-pw at rank 1" in table.seconds


def test_a_table_of_this_machine_is_not_one_of_a_board(network, farm):
    from sepify.process.machine import this_machine

    known = LatencyTable(TARGET, this_machine().cpu)
    with pytest.raises(PlanError, match="another machine"):
        measure(network, farm, known)


def test_a_wrong_secret_is_refused_before_anything_is_measured(farm):
    calibration = images(64)
    budget = sepify.Budget(latency="50%", target=TARGET)
    with pytest.raises(DeviceError, match="wrong secret"):
        sepify.plan(
            seeded(Plain(8)),
            calibration=calibration,
            budget=replace(budget, farm=replace(farm, secret="another-secret-of-length")),
        )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("native", "'native' is this machine, and not the board"),
        ("onnxruntime", "timed on this machine alone: leave the board out"),
        ("raspberry-pi-2", "there is no server for it"),
    ],
)
def test_targets_that_no_board_can_be(farm, target, message):
    with pytest.raises(UsageError, match=message), open_stopwatch(target, farm):
        pass


def test_a_board_without_a_budget_in_latency_is_refused(farm):
    model, calibration = seeded(Plain(8)), images(64)
    with pytest.raises(UsageError, match="a board is for a budget in latency, such as"):
        sepify.plan(model, calibration=calibration, budget=sepify.Budget(macs=0.5, farm=farm))
    with pytest.raises(UsageError, match="a board is for a budget in latency"):
        sepify.convert(model, budget=sepify.Budget(macs=0.5, farm=farm))
