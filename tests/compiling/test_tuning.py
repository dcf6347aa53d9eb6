"""MetaSchedule for what has no own kernel, and its database."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sepify.compiling import compile, load_compiled
from sepify.compiling.budget import Budget, parse_budget
from sepify.compiling.metaschedule import Database
from sepify.compiling.tuning import database_folder
from sepify.errors import FileError, TuningWarning, UsageError

_X = torch.randn(1, 8, 8, 8)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(8, 4, 2, dilation=2), nn.ReLU())


def test_records_are_reused_even_after_a_kill_in_mid_write(tmp_path):
    first = compile(network(), _X, tune=2, database=tmp_path)
    assert first.metadata.trials == 2
    assert first.metadata.kernels["metaschedule"] == 1
    assert first.metadata.records_reused == 0

    (records,) = tmp_path.glob("*/database_tuning_record.json")
    with records.open("a") as file:
        file.write('[0, [[["half a rec')
    second = compile(network(), _X, database=tmp_path)
    assert second.metadata.trials == 0
    assert second.metadata.records_reused == 2  # the own kernel's too
    for line in records.read_text().splitlines():
        json.loads(line)
    torch.testing.assert_close(second(_X), first(_X))


def test_all_candidates_failing_is_survived_counted_and_said(tmp_path, monkeypatch):
    def fail(self, function, target, trials, report):
        report(trials, ["no such instruction"] * trials)

    monkeypatch.setattr(Database, "tune", fail)
    with pytest.warns(TuningWarning, match="run as TVM's plain loops"):
        compiled = compile(network(), _X, tune=2, database=tmp_path)
    torch.testing.assert_close(compiled(_X), network()(_X))
    metadata = compiled.metadata
    assert metadata.failed_trials == 1  # the own kernel had the other trial
    assert metadata.kernels["metaschedule"] == 0
    ((name, why),) = metadata.given_up.items()
    assert why == "every candidate failed; the first: no such instruction"
    assert f"TVM's plain loops ({name}): {why}" in metadata.summary
    assert load_compiled(compiled.save(tmp_path / "bundle")).metadata == metadata


def test_nothing_is_measured_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(Database, "tune", lambda *_: pytest.fail("a trial"))
    with pytest.warns(TuningWarning, match="1 operator.* not tuned; tune='10min'"):
        compiled = compile(network(), _X, database=tmp_path)
    torch.testing.assert_close(compiled(_X), network()(_X))
    assert compiled.metadata.trials == 0
    assert len(compiled.metadata.given_up) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_what_metaschedule_raises_is_survived_and_said(tmp_path, monkeypatch):
    def fail(self, function, target, trials, report):
        raise RuntimeError("cannot move the block\nat some line")

    monkeypatch.setattr(Database, "tune", fail)
    with pytest.warns(TuningWarning, match="run as TVM's plain loops"):
        compiled = compile(network(), _X, tune=2, database=tmp_path)
    torch.testing.assert_close(compiled(_X), network()(_X))
    assert list(compiled.metadata.given_up.values()) == [
        "MetaSchedule failed: cannot move the block"
    ]


def test_other_targets_and_versions_have_their_own_folder(tmp_path):
    base = database_folder(tmp_path, {"kind": "llvm", "mcpu": "a"}, {"tvm": "1"})
    assert base != database_folder(tmp_path, {"kind": "llvm", "mcpu": "b"}, {"tvm": "1"})
    assert base != database_folder(tmp_path, {"kind": "llvm", "mcpu": "a"}, {"tvm": "2"})
    assert base.parent == tmp_path


def test_a_database_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write .*file"):
        compile(network(), _X, tune=2, database=tmp_path / "file")


@pytest.mark.parametrize(
    ("tune", "want"),
    [
        (None, Budget()),
        (500, Budget(trials=500)),
        ("500", Budget(trials=500)),
        ("10min", Budget(seconds=600.0)),
        ("90s", Budget(seconds=90.0)),
        ("1.5 h", Budget(seconds=5400.0)),
    ],
)
def test_budgets(tune, want):
    assert parse_budget(tune) == want


@pytest.mark.parametrize("tune", ["soon", "0s", "-3", 0, "10 days", ""])
def test_budgets_that_are_none(tune):
    with pytest.raises(UsageError, match="tune="):
        parse_budget(tune)


def test_time_is_shared_among_the_operators_left():
    budget = Budget(seconds=60.0)
    assert budget.deadline(0.0, 3, 0.0) == 20.0
    assert budget.deadline(0.0, 2, 30.0) == 45.0
    assert budget.deadline(0.0, 1, 70.0) == 70.0
