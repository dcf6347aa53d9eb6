"""What goes through stdin and stdout, and what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sepify.formats.torchscript_write import save_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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
