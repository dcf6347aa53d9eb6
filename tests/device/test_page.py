"""Every command of docs/raspberry-pi.md, in order; the board is played by qemu-user."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from device.emulator import CPUS, emulate
from device.networks import demo
from sepify.demo.data import MODEL_FILE
from sepify.formats.torchscript_write import save_torchscript, to_torchscript

PAGE = Path(__file__).parents[2] / "docs" / "raspberry-pi.md"
SHAPE = (1, 1, 28, 28)


def commands() -> list[tuple[str, list[str]]]:
    """(computer or board, words) of every command on the page."""
    blocks = re.findall(r"```(computer|board)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return [(where, shlex.split(line)) for where, text in blocks for line in text.splitlines()]


@pytest.fixture
def sides(tmp_path):
    """The computer's folder and the board's."""
    computer, board = tmp_path / "computer", tmp_path / "board"
    computer.mkdir()
    board.mkdir()
    model, x = demo()
    save_torchscript(to_torchscript(model, (x,))[0], computer / "small.pt", [SHAPE])
    shutil.copy(MODEL_FILE, computer / "model.pt")
    (board / "image.bin").write_bytes(np.zeros(SHAPE, np.float32).tobytes())
    for side in (computer, board):
        (side / "secret.txt").write_text("sixteen-letters-or-more\n")
    return computer, board


def on_computer(words, computer, board):
    if words[0] == "scp":
        assert words[1] == "-r"
        shutil.copytree(computer / words[2], board / words[2])
        return
    if "model.pt" in words:
        words = [*words, "--input-shape", "1,1,28,28"]  # the original does not say
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    words = [sys.executable, "-m", *words]
    if "--tune" in words:
        words += ["--database", str(computer / "database")]
    done = subprocess.run(words, cwd=computer, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def on_board(words, board):
    """None, or a server that goes on."""
    if words[0] == "cmake":
        words = [*words]
        if "-S" in words:
            words += ["-DCMAKE_C_COMPILER=arm-linux-gnueabihf-gcc", "-DCMAKE_SYSTEM_NAME=Linux"]
        done = subprocess.run(words, cwd=board, capture_output=True, text=True)
    elif words[0].endswith("/serve"):
        emulator, cpu, root = CPUS["raspberry-pi-4"]
        command = [emulator, "-cpu", cpu, "-L", root, *words]
        server = subprocess.Popen(command, cwd=board, stdout=subprocess.PIPE, text=True)
        assert "serving raspberry-pi-4 on 127.0.0.1:9090" in server.stdout.readline()
        return server
    else:
        target = "raspberry-pi-2" if words[0].startswith("build/") else "raspberry-pi-4"
        words = [str(board / word) if (board / word).exists() else word for word in words]
        words = [str(board / word) if word == "logits.bin" else word for word in words]
        done = emulate(target, *words)
    assert done.returncode == 0, done.stderr
    return None


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")
def test_every_command_of_the_page(sides):
    computer, board = sides
    servers = []
    try:
        for where, words in commands():
            if where == "computer":
                on_computer(words, computer, board)
            else:
                servers.append(on_board(words, board))
    finally:
        for server in filter(None, servers):
            server.kill()
            server.wait()
    assert (board / "logits.bin").stat().st_size == 40
    counts = json.loads((computer / "counts.json").read_text())
    assert counts["after"]["instructions"] < counts["before"]["instructions"] / 2
    assert "Latency on the board at 127.0.0.1:9090" in (computer / "report.html").read_text()
    records = (computer / "database" / "kernels.jsonl").read_text().splitlines()
    timed = [json.loads(line)["seconds"] for line in records]
    assert len(timed) == 4
    assert all(timed)
