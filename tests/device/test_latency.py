"""A latency table and a report's board, the board being an emulator: the way there, no times."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace

import pytest
import torch
from nets import Plain, images, seeded
from torch import fx, nn

import sepify
from device.emulator import CPUS
from sepify.compiling import find_farm, make_bundle
from sepify.errors import BoardWarning, DeviceError, PlanError
from sepify.measuring import compare
from sepify.planning.candidates import list_layers
from sepify.planning.costs import measure_maps
from sepify.planning.latency_table import LatencyTable
from sepify.planning.measurements import Measurements
from sepify.planning.runtimes import open_stopwatch
from sepify.planning.stopwatch import measure_latencies
from sepify.planning.survey import survey

TARGET = "raspberry-pi-4"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    folder = tmp_path_factory.mktemp("board") / "bundle"
    return make_bundle(model, torch.randn(1, 3, 9, 9), TARGET, folder).path


@pytest.fixture
def start(bundle, secret):
    """Starts servers; gives (process, farm)."""
    emulator, cpu, root = CPUS[TARGET]
    started = []

    def server():
        command = [emulator, "-cpu", cpu, "-L", root, str(bundle / "serve"), "--port", "0"]
        process = subprocess.Popen(
            [*command, "--secret", str(secret)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        port = re.search(r":(\d+),", process.stdout.readline())[1]
        return process, find_farm(devices=[f"127.0.0.1:{port}"], secret=secret)

    yield server
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure(farm, known=None, save=None):
    network = fx.symbolic_trace(seeded(Plain(8)))
    layers = list_layers(survey(network), measure_maps(network, (images(1),)))
    few = tuple(replace(layer, candidates=layer.candidates[:2]) for layer in layers)
    given = Measurements(few, "kl", 1, 0, 4)
    with open_stopwatch(TARGET, farm) as watch:
        return measure_latencies(network, (images(1),), given, TARGET, watch, known, save)


@pytest.mark.filterwarnings("ignore::sepify.errors.BoardWarning")
def test_a_table_goes_on_where_a_board_died_and_is_refused_for_another(start):
    process, farm = start()
    saved: list[LatencyTable] = []

    def save(table):
        saved.append(table)
        os.killpg(process.pid, signal.SIGKILL)

    with (
        pytest.warns(BoardWarning, match="emulator"),
        pytest.raises(DeviceError, match="the latency table has what was timed"),
    ):
        measure(farm, save=save)
    _, farm = start()
    table, _ = measure(farm, saved[0])
    assert saved[0].seconds.items() < table.seconds.items()
    assert len(table.seconds) == 4
    assert table.machine.startswith("board: an emulator of aarch64 on ")
    with pytest.raises(PlanError, match=r"another machine \(board: Raspberry Pi 4"):
        measure(farm, replace(table, machine="board: Raspberry Pi 4, Cortex-A72, 4 CPUs"))


def test_a_report_has_the_board_and_none_of_its_milliseconds(start):
    _, farm = start()
    model = seeded(Plain(8))
    small = sepify.convert(model, example_inputs=images(1))
    report = compare(
        model, small, images(1), threads=(), seconds=0.1, farm=farm, device_target=TARGET
    )
    assert report.board.target == TARGET
    assert report.board.emulated
    assert report.board.rows[0].threads == 1
    assert all(row.before is row.after is None for row in report.board.rows)
    assert "is an emulator of aarch64" in " ".join(report.notes)
    assert f"Latency on the board at {farm}" in str(report)
    with pytest.raises(DeviceError, match="wrong secret"):
        wrong = replace(farm, secret="another-secret-of-length")
        compare(model, small, images(1), threads=(), farm=wrong, device_target=TARGET)
