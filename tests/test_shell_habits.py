"""What every command does alike: examples, --json, --quiet, completion, streams, data options."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from nets import Plain, images, seeded
from PIL import Image
from test_cli import Shell

from sepify.cli.app import app
from sepify.compiling.device import counting, timing
from sepify.formats.torchscript_write import save_torchscript
from sepify.measuring import load_report

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    save_torchscript(torch.jit.trace(seeded(Plain(16)), images()), "model.pt", [(1, 3, 12, 12)])
    np.save("x.npy", images(32).numpy())
    return Shell(monkeypatch, capsys)


def commands(group: typer.Typer = app, before: str = "") -> list[str]:
    """Every command there is, those of groups as two words."""
    found = [f"{before}{c.callback.__name__}" for c in group.registered_commands if c.callback]
    for inner in group.registered_groups:
        found += commands(inner.typer_instance, f"{before}{inner.name} ")
    return found


def test_the_commands_of_groups_are_among_them():
    assert {"convert", "device count", "device serve", "device time"} <= set(commands())


@pytest.mark.parametrize("command", commands())
def test_help_has_two_examples_and_what_every_command_takes(shell, command):
    text = shell(*command.split(), "--help").out
    assert max(map(len, text.splitlines())) <= 80
    assert len(re.findall(rf"sepify\s+{command}\b", text)) >= 2
    assert "Examples:" in text
    for option in ("--json", "--quiet", "--help"):
        assert option in text
    assert "\x1b" not in text


def test_json_is_all_there_is_on_stdout(shell):
    found = json.loads(shell("inspect", "model.pt", "--json").out)
    assert found["macs"] == 228_096
    assert [layer["name"] for layer in found["layers"]] == ["conv1", "conv2"]
    assert list(found["totals"]) == ["1", "2", "3"]
    doctor = json.loads(shell("doctor", "--json").out)
    assert doctor["versions"]["torch"] == torch.__version__
    needs = {need["name"]: need for need in doctor["commands"]}
    assert needs["cc"]["ready"] == (needs["cc"]["missing"] == "")
    done = shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--json")
    facts = json.loads(done.out)
    assert (facts["separated"], facts["convolutions"]) == (2, 2)
    assert facts["written"] == [
        "small.pt",
        "small.plan.json",
        "small.report.json",
        "small.report.html",
    ]
    assert "wrote small.pt" in done.err


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


def test_quiet_leaves_the_result_and_nothing_on_stderr(shell):
    done = shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--quiet")
    assert "2 of 2 convolutions separated" in done.out
    told = done.err.strip().splitlines()
    assert [line.split(":")[0] for line in told] == ["warning"]
    assert "no images were given" in told[0]
    assert "wrote" in shell("convert", "--method", "svd", "model.pt", "-o", "small.pt").err
    assert "no such file" in shell("inspect", "none.pt", "--quiet").err


def test_inspect_is_a_tree_with_totals(shell, monkeypatch):
    save_torchscript(
        torch.jit.trace(seeded(torch.nn.Sequential(Plain(16), torch.nn.ReLU())), images()),
        "deep.pt",
        [(1, 3, 12, 12)],
    )
    text = shell("inspect", "deep.pt").out
    assert re.search(r"^ 0 +228,096 +100%", text, re.M)
    assert re.search(r"^ {3}conv1 +\d+x3x3x3", text, re.M)
    assert "all convolutions: " in text
    assert "rank 3 (45%)" in text


def test_doctor_says_what_is_missing_and_how_to_get_it(shell, monkeypatch):
    monkeypatch.setenv("PATH", "")
    text = shell("doctor").out
    assert "-- cc" in text
    assert "not installed" in text
    assert "vector units" in text
    assert max(map(len, text.splitlines())) <= 80


def test_streams(shell, monkeypatch):
    import io

    shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--no-report")
    plan = Path("small.plan.json").read_text()
    monkeypatch.setattr(sys, "stdin", io.StringIO(plan))
    assert shell("diff", "small.plan.json", "-").code == 0
    made = shell(*("plan", "model.pt", "--calibration", "x.npy", "--budget", "macs=60%", "-o", "-"))
    assert made.code == 0, made.err
    assert json.loads(made.out)["format"] == "sepify-plan"
    assert "budget macs" in made.err


def test_reports_side_by_side(shell):
    for rank in (1, 2):
        shell("convert", "model.pt", "-o", f"r{rank}.pt", "--rank", rank, "--calibration", "x.npy")
    reports = ("r1.report.json", "r2.report.json")
    done = shell("report", *reports, "-o", "both.html", "-o", "both.md", "-o", "both.json")
    assert done.code == 0, done.err
    assert "original" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    both = json.loads(Path("both.json").read_text())
    assert [entry["name"] for entry in both["reports"]] == ["r1", "r2"]
    assert "| r1 |" in Path("both.md").read_text()
    assert "data-chart" in Path("both.html").read_text()
    assert shell("report", "r1.report.json").code == 2
    assert shell("report", "model.pt").code == 2


def test_a_report_says_how_to_make_it_again(shell):
    np.savez("test.npz", images=images(40).numpy(), labels=np.arange(40) % 4)
    shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--no-report")
    done = shell(
        *("report", "model.pt", "small.pt", "--data", "test.npz", "--target", "none"),
        *("--calibration", "x.npy", "--uniform", "1,2", "-o", "r.json", "-o", "r.md"),
    )
    assert done.code == 0, done.err
    report = load_report("r.json")
    assert report.origin.command.startswith("sepify report model.pt small.pt --data test.npz")
    assert [file.name for file in report.origin.files] == [
        "model.pt",
        "small.pt",
        "small.plan.json",
        "test.npz",
        "x.npy",
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in report.origin.files)
    assert report.origin.plan is not None
    assert report.origin.plan["format"] == "sepify-plan"
    assert [v.label for v in report.variants] == [
        "uniform rank 1, unrefined",
        "uniform rank 2, unrefined",
    ]
    assert all(row.measured_error is not None for row in report.layers if row.action == "separate")
    refused = shell("report", "model.pt", "small.pt", "--uniform", "1", "--target", "none")
    assert (refused.code, "needs --calibration" in refused.err) == (2, True)
    assert shell("report", "model.pt", "small.pt", "--uniform", "one").code == 2


def test_pictures_that_are_prepared_wrongly_are_said_first(shell):
    random = np.random.default_rng(0)
    for number in range(60):
        folder = Path("set") / "abcd"[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (14, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    done = shell(
        *("convert", "model.pt", "-o", "small.pt", "--data", "set"),
        *("--preprocess", "size=12,mean=0.5,std=0.25", "--calibration", "set"),
    )
    assert done.code == 0, done.err
    assert "is near chance" in done.err.split("wrote")[0]
    report = load_report("small.report.json")
    assert report.accuracy is not None
    assert report.accuracy.images == 60
    assert report.changes is not None
    assert report.changes.names == ("a", "b", "c", "d")
    assert "near chance" in report.notes[0]


def test_a_metric_of_the_users(shell):
    Path("mine_metric.py").write_text(
        "def distance(output, target): return (output - target).abs().mean(1)\n"
        "def one(output, target): return 1.0\n"
    )
    np.savez("targets.npz", images=images(40).numpy(), labels=np.zeros((40, 5), np.float32))
    shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--no-report")
    ask = ("report", "model.pt", "small.pt", "--data", "targets.npz", "--target", "none")
    done = shell(*ask, "--metric", "mine_metric:distance", "-o", "r.json")
    assert done.code == 0, done.err
    (metric,) = load_report("r.json").metrics
    assert (metric.name, metric.images) == ("distance", 40)
    assert metric.before.low < metric.before.value < metric.before.high
    assert "distance, mean of 40 images" in done.out
    wrong = shell(*ask, "--metric", "mine_metric:one")
    assert (wrong.code, "one number an image" in wrong.err) == (1, True)
    alone = shell("report", "model.pt", "small.pt", "--metric", "mine_metric:distance")
    assert (alone.code, "--metric needs --data" in alone.err) == (2, True)


def test_the_schema_is_printed(shell):
    assert json.loads(shell("report", "--schema").out)["$defs"]


@pytest.mark.slow
def test_completion_knows_the_commands():
    environment = {
        **os.environ,
        "_SEPIFY_COMPLETE": "complete_bash",
        "COMP_WORDS": "sepify ",
        "COMP_CWORD": "1",
    }
    code = "import sys; sys.argv = ['sepify']; from sepify.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert {command.split()[0] for command in commands()} <= set(done.stdout.split())


class _Talkative(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("a word from the model")
        return self.conv(x)


def test_what_a_torchscript_model_prints_is_not_among_the_results(tmp_path):
    model = torch.jit.script(_Talkative().eval())
    save_torchscript(model, tmp_path / "model.pt", [(1, 3, 12, 12)])
    command = [sys.executable, "-m", "sepify", "inspect", str(tmp_path / "model.pt"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layers"]
    assert "a word from the model" in done.stderr
    # a file for both: none overwrites what the other wrote
    with (tmp_path / "both").open("w") as both:
        subprocess.run(command, stdout=both, stderr=subprocess.STDOUT, check=True)
    text = (tmp_path / "both").read_text()
    assert "a word from the model" in text
    assert json.loads(text[text.index("{") :])["layers"]
