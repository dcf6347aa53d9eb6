"""Reports with a board's latency, this machine being the board: loopback only."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nets import Plain, images, seeded

import sepify
from sepify.cli import main
from sepify.errors import DeviceError, UsageError
from sepify.formats.torchscript_write import save_torchscript
from sepify.measuring import compare

pytest.importorskip("tvm")

TARGET = "x86-64-v3"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def farm(board, secret):
    from sepify.compiling import find_farm

    return find_farm(devices=[board[1][1]], secret=secret)


@pytest.fixture
def pair():
    model = seeded(Plain(32))
    return model, sepify.convert(
        model, example_inputs=images(1, size=32), solver=sepify.Solver(method="svd")
    )


def test_both_networks_in_turns_on_the_board(pair, farm):
    report = compare(
        *pair, images(1, size=32), timing=sepify.Timing(threads=(), farm=farm, device_target=TARGET)
    )
    board = report.board
    assert report.latency is None
    assert board is not None
    assert (board.target, board.emulated) == (TARGET, False)
    assert board.board == str(farm)
    assert board.machine.cpus == os.cpu_count()
    row = board.rows[0]
    assert row.threads == 1
    assert row.before is not None
    assert row.after is not None
    assert row.before.runs == row.after.runs >= 15
    assert 0 < row.before.min <= row.before.q1 <= row.before.median <= row.before.q3 < 1
    assert row.like_for_like.low <= row.like_for_like.value <= row.like_for_like.high
    assert row.over_fastest is None
    assert f"Latencyontheboardat{farm}" in "".join(str(report).split())


def shell(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["sepify", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_convert_and_report_at_a_shell(board, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    save_torchscript(torch.jit.trace(seeded(Plain(8)), images(1)), "model.pt", [(1, 3, 12, 12)])
    where = (*board[1], "--device-target", TARGET)
    assert (
        shell(monkeypatch, "convert", "--method", "svd", "model.pt", "-o", "small.pt", *where) == 0
    )
    made = json.loads(Path("small.report.json").read_text())
    assert made["latency"] is None
    assert made["board"]["rows"][0]["after"]["median"] > 0
    outputs = ("-o", "both.md", "-o", "both.html")
    words = ("report", "model.pt", "small.pt", "--target", "none", *where, *outputs)
    assert shell(monkeypatch, *words) == 0, capsys.readouterr().err
    for output in ("both.md", "both.html"):
        text = Path(output).read_text()
        assert "on the board" in text.lower()
        assert board[1][1] in text
        assert TARGET in text
    for missing, message in (
        (board[1], "--device-target raspberry-pi-4"),
        (("--device-target", TARGET), "is a board's, and none is named"),
        ((*board[1], "--device-target", "armv7"), "there is no server for it"),
    ):
        capsys.readouterr()
        assert shell(monkeypatch, "report", "model.pt", "small.pt", *missing) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_convert_holds_budget_and_target_together(board, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ["convert", "model.pt", "-o", "small.pt", *board[1], "--calibration", "x.npy"]
    words += ["--budget", "latency=50%@raspberry-pi-4", "--device-target", TARGET]
    assert shell(monkeypatch, *words) == 2
    assert "contradicts the budget" in " ".join(capsys.readouterr().err.split())
    assert shell(monkeypatch, *words[:6], *board[1], "--no-report") == 2
    assert "leave it out" in " ".join(capsys.readouterr().err.split())


def test_faults(pair, farm, board):
    given = sepify.Timing(threads=(), farm=farm, device_target=TARGET)
    wrong = replace(farm, secret="another-secret-of-length")
    with pytest.raises(DeviceError, match="wrong secret"):
        compare(*pair, images(1), timing=replace(given, farm=wrong))
    with pytest.raises(UsageError, match="is this machine, and not the board"):
        compare(*pair, images(1), timing=replace(given, device_target="native"))
    server = board[0].pid
    sessions = Path(f"/proc/{server}/task/{server}/children")

    over = threading.Event()

    def strike():
        while not over.is_set():
            for pid in sessions.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.002)

    def progress(what, _done, _total):
        if what.startswith("timing on"):
            threading.Thread(target=strike, daemon=True).start()

    try:
        with pytest.raises(DeviceError, match=f"the board at {farm} "):
            compare(*pair, images(1), timing=given, progress=progress)
    finally:
        over.set()
