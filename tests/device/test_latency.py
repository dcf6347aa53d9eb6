"""A latency table and a report's board, the board being an emulator: the way there, no times."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from nets import Plain, images, seeded
from torch import fx

import sepify
from sepify.compiling import find_farm
from sepify.errors import BoardWarning, DeviceError, PlanError
from sepify.graph.convolutions import survey
from sepify.graph.maps import measure_maps
from sepify.measuring import compare
from sepify.planning.candidates import Measurements, list_layers
from sepify.planning.latency import LatencyTable, measure_latencies
from sepify.timing.layers import open_stopwatch

TARGET = "raspberry-pi-4"


@pytest.fixture
def start_board(start, secret):
    """Starts a board; gives (process, farm)."""

    def board():
        process, port = start()
        return process, find_farm(devices=[f"127.0.0.1:{port}"], secret=secret)

    return board


def measure(farm, known=None, save=None):
    network = fx.symbolic_trace(seeded(Plain(8)))
    layers = list_layers(survey(network), measure_maps(network, (images(1),)))
    few = tuple(replace(layer, candidates=layer.candidates[:2]) for layer in layers)
    given = Measurements(few, "kl", 1, 0, 4)
    with open_stopwatch(TARGET, farm) as watch:
        return measure_latencies(network, (images(1),), given, TARGET, watch, known, save)


@pytest.mark.filterwarnings("ignore::sepify.errors.BoardWarning")
def test_a_table_goes_on_where_a_board_died_and_is_refused_for_another(start_board):
    process, farm = start_board()
    saved: list[LatencyTable] = []

    def save(table):
        saved.append(table)
        os.killpg(process.pid, signal.SIGKILL)

    with (
        pytest.warns(BoardWarning, match="emulator"),
        pytest.raises(DeviceError, match="the latency table has what was timed"),
    ):
        measure(farm, save=save)
    _, farm = start_board()
    table, _ = measure(farm, saved[0])
    assert saved[0].seconds.items() < table.seconds.items()
    assert len(table.seconds) == 4
    assert table.machine.startswith("board: an emulator of aarch64 on ")
    with pytest.raises(PlanError, match=r"another machine \(board: Raspberry Pi 4"):
        measure(farm, replace(table, machine="board: Raspberry Pi 4, Cortex-A72, 4 CPUs"))


def test_a_report_has_the_board_and_none_of_its_milliseconds(start_board):
    _, farm = start_board()
    model = seeded(Plain(8))
    small = sepify.convert(model, example_inputs=images(1), solver=sepify.Solver(method="svd"))
    report = compare(
        model,
        small,
        images(1),
        timing=sepify.Timing(threads=(), seconds=0.1, farm=farm, device_target=TARGET),
    )
    assert report.board.target == TARGET
    assert report.board.emulated
    assert report.board.rows[0].threads == 1
    assert all(row.before is row.after is None for row in report.board.rows)
    assert "is an emulator of aarch64" in " ".join(report.notes)
    assert f"Latency on the board at {farm}" in str(report)
    with pytest.raises(DeviceError, match="wrong secret"):
        wrong = replace(farm, secret="another-secret-of-length")
        compare(
            model,
            small,
            images(1),
            timing=sepify.Timing(threads=(), farm=wrong, device_target=TARGET),
        )
