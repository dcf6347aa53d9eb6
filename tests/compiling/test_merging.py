"""Tuning records of several folders in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sepify.cli import main
from sepify.compiling import compile

_X = torch.randn(1, 8, 8, 8)


def network(out: int) -> nn.Module:
    """An own kernel, and an operator for MetaSchedule."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, out, 1), nn.ConvTranspose2d(out, 4, 2, dilation=2)).eval()


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    """Two folders with the records of one network each, and one workload in both."""
    root = tmp_path_factory.mktemp("records")
    for name, outs in (("a", (8,)), ("b", (12, 8))):
        for out in outs:
            compile(network(out), _X, tune=3, database=root / name)
    return root / "a", root / "b"


def merge(monkeypatch, capsys, *arguments: str | Path) -> dict[str, int]:
    """What the command adds."""
    command = ["sepify", "merge", "--json", *map(str, arguments)]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    return json.loads(printed.out)["added"]


def test_merged_records_serve_both_networks(databases, tmp_path, monkeypatch, capsys):
    added = merge(monkeypatch, capsys, *databases, "--into", tmp_path / "all")
    assert min(added.values()) > 0
    for out in (8, 12):
        metadata = compile(network(out), _X, database=tmp_path / "all").metadata
        assert metadata.trials == 0
        assert metadata.records_reused == 2
    nothing = merge(monkeypatch, capsys, *databases, "--into", tmp_path / "all")
    assert nothing == {"kernels": 0, "metaschedule": 0}
    (workloads,) = (tmp_path / "all").glob("*/database_workload.json")
    assert len(workloads.read_text().splitlines()) == 2


def test_half_lines_are_left_behind(databases, tmp_path, monkeypatch, capsys):
    source, into = tmp_path / "source", tmp_path / "into"
    merge(monkeypatch, capsys, databases[0], "--into", source)
    for path in (source / "kernels.jsonl", *source.glob("*/*.json")):
        with path.open("a") as file:
            file.write('[0, {"half')
    merge(monkeypatch, capsys, source, "--into", into)
    for path in (into / "kernels.jsonl", *into.glob("*/*.json")):
        for line in path.read_text().splitlines():
            json.loads(line)
    assert compile(network(8), _X, database=into).metadata.trials == 0


def test_a_folder_without_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sepify", "merge", str(tmp_path), "--into", "x"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "no tuning records in" in capsys.readouterr().err
