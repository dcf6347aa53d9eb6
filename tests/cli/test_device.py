"""sepify device."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from sepify.compiling.device import counting, timing

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_board_speaks_json_too(shell, monkeypatch):
    """The board is not here: what it said is given. tests/device asks one that qemu plays."""
    said = timing.BoardLatency("127.0.0.1:9090", 50, 1.25, 1.5)
    monkeypatch.setattr(timing, "time_bundle", lambda *_: said)
    Path("secret.txt").write_text("sixteen-letters-or-more")
    ask = ("device", "time", "bundle", "--device", "127.0.0.1:9090", "--secret", "secret.txt")
    assert json.loads(shell(*ask, "--json").out) == dataclasses.asdict(said)
    assert "least 1.250 ms, median 1.500 ms" in shell(*ask).out
    said = dataclasses.replace(said, least=None, median=None)
    assert "it is an emulator" in shell(*ask).out


def test_counts_go_to_a_file_to_stdout_or_to_a_machine(shell, monkeypatch):
    """As above: the counts are given, and looked for in every place that they may go to."""
    found = counting.Footprint(1000, 100, 10, 200, 50, 4096, 8192, 2048, 1024)
    monkeypatch.setattr(counting, "footprint", lambda *_: found)
    ask = ("device", "count", "model.pt", "model.pt", "--target", "armv7")
    done = shell(*ask, "--json", "-o", "counts.json")
    facts = json.loads(done.out)
    assert facts["before"] == facts["after"] == dataclasses.asdict(found)
    assert json.loads(Path("counts.json").read_text()) == facts
    assert "wrote counts.json" in done.err
    assert shell(*ask, "--quiet", "-o", "counts.json").err == ""
    assert json.loads(shell(*ask, "-o", "-").out) == facts
