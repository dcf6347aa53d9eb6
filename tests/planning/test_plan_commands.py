"""`sepify plan` and `sepify diff` at a shell."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from nets import Plain, images, seeded

import sepify
from sepify.cli import main
from sepify.formats.torchscript_write import save_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    save_torchscript(torch.jit.trace(seeded(Plain(16)), images()), "model.pt", [(1, 3, 12, 12)])
    np.save("images.npy", images(96).numpy())

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sepify", *args])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return run


PLAN = ("plan", "model.pt", "--calibration", "images.npy")


def test_a_plan_is_written_told_and_converted_with(shell, tmp_path):
    code, out, _ = shell(*PLAN, "--budget", "macs=40%", "-o", "plan.json")
    assert code == 0
    assert re.search(r"budget macs 40%: \d of 2 convolutions separated, MACs 228,096 -> ", out)
    plan = sepify.load_plan("plan.json")
    assert plan.outlook.limit == pytest.approx(0.4 * sum(d.before.macs for d in plan))
    options = ("--calibration", "images.npy", "--no-report")
    assert shell("convert", "model.pt", "-o", "small.pt", "--plan", "plan.json", *options)[0] == 0
    again = sepify.load_plan("small.plan.json")
    assert [d.form for d in again] == [d.form for d in plan]


def test_convert_takes_a_budget(shell):
    options = ("--calibration", "images.npy", "--no-report")
    code, _, err = shell("convert", "model.pt", "-o", "small.pt", "--budget", "macs=0.4", *options)
    assert code == 0, err
    assert sepify.load_plan("small.plan.json").outlook.budget == "macs 0.4"


def test_the_frontier_and_measurements_that_are_used_again(shell, tmp_path):
    options = (*PLAN, "--frontier", "--measurements", "measured.json", "-o", "frontier.json")
    code, out, err = shell(*options)
    assert code == 0, err
    assert "█" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    points = json.loads((tmp_path / "frontier.json").read_text())["points"]
    assert points[-1]["share"] == 1
    stamp = (tmp_path / "measured.json").stat().st_mtime_ns
    code, again, _ = shell(*options)
    assert (code, again) == (0, out)
    assert (tmp_path / "measured.json").stat().st_mtime_ns == stamp


def test_diff(shell):
    for name, share in (("one.json", "0.3"), ("two.json", "0.9")):
        known = ("--measurements", "measured.json")
        assert shell(*PLAN, "--budget", f"macs={share}", "-o", name, *known)[0] == 0
    code, out, _ = shell("diff", "one.json", "two.json")
    assert code == 0
    assert "MACs" in out
    assert all(len(line) <= 80 for line in out.splitlines())
    code, out, _ = shell("diff", "one.json", "two.json", "--json")
    found = json.loads(out)
    assert (code, found["format"]) == (0, "sepify-plan-diff")
    assert found["macs"][0] < found["macs"][1]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (PLAN, 2, "either --budget"),
        ((*PLAN, "--budget", "macs=0.3", "--frontier"), 2, "either --budget"),
        ((*PLAN, "--budget", "macs=0.3"), 2, "needs a file"),
        ((*PLAN, "--budget", "macs=35", "-o", "plan.json"), 2, "has no unit"),
        ((*PLAN, "--budget", "macs=1%", "-o", "plan.json"), 1, "least possible"),
        ((*PLAN, "--budget", "latency=50%@raspberry-pi-4", "-o", "plan.json"), 2, "name a board"),
        ((*PLAN, "--budget", "macs=0.3", "-o", "plan.json", "--keep", "x*"), 1, "matches no"),
        (("diff", "model.pt", "model.pt"), 1, "not a text file"),
    ],
)
def test_what_is_refused_leaves_nothing(shell, tmp_path, args, code, message):
    before = {path.name for path in tmp_path.iterdir()}
    found, _, err = shell(*args)
    assert (found, message in err) == (code, True), err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_interruption_leaves_whole_files_or_none(shell, tmp_path, monkeypatch):
    def stop(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sepify.planning.budgeted.run_rounds", stop)
    files = ("-o", "plan.json", "--measurements", "measured.json")
    code, _, err = shell(*PLAN, "--budget", "macs=0.5", *files)
    assert code != 0
    assert "interrupted; nothing half-written was left behind" in err
    assert json.loads((tmp_path / "measured.json").read_text())["layers"]
    assert not (tmp_path / "plan.json").exists()
