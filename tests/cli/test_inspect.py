"""sepify inspect, sepify doctor and sepify demo."""

from __future__ import annotations

import re

import pytest
import torch
from nets import Plain, images, seeded

from sepify.formats.torchscript_write import save_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_inspect(shell):
    assert shell("inspect", "model.pt").code == 0
    assert "2 convolutions, 228,096 MACs an image (456,192 FLOPs)" in shell.out
    assert "conv1" in shell.out
    assert max(map(len, shell.out.splitlines())) <= 80
    assert "\x1b" not in shell.out


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


def test_demo_refuses_a_folder_that_cannot_be_written_before_it_works(shell):
    refused = shell("demo", "-o", "model.pt/demo")
    assert refused.code == 1
    assert "cannot write" in refused.err
