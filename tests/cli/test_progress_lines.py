"""Progress where stderr is no terminal, and the switch for what takes longest."""

import numpy as np
import pytest
import torch
from nets import Plain, images, seeded
from shells import Shell

from sepify.cli import progress
from sepify.cli.console import notes
from sepify.formats.torchscript_write import save_torchscript
from sepify.storage import read_json


def test_a_line_after_two_seconds_and_then_one_in_ten(capsys):
    now = 0.0
    lines = progress.Lines(lambda: now)
    for second in range(0, 240):
        now = second / 10
        lines.show("solving [a]", second, 1_000)
    lines.show("unknown", 3, 0)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "solving [a], 20 of 1,000 (2 s)",
        "solving [a], 120 of 1,000 (12 s)",
        "solving [a], 220 of 1,000 (22 s)",
    ]


def test_short_work_says_nothing(capsys):
    with progress.progress_bar() as show:
        show("solving", 1, 2)
    assert capsys.readouterr().err == ""


def test_long_work_says_so_off_a_terminal_unless_it_is_to_be_quiet(capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE", 0.0)
    for quiet, said in ((False, True), (True, False)):
        monkeypatch.setattr(notes, "quiet", quiet)
        with progress.progress_bar() as show:
            show("solving", 1, 2)
        assert ("solving, 1 of 2" in capsys.readouterr().err) is said


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_refine_leaves_the_refinement_out(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    save_torchscript(torch.jit.trace(seeded(Plain()), images()), "model.pt", [(1, 3, 12, 12)])
    np.save("x.npy", images(32).numpy())
    shell = Shell(monkeypatch, capsys)
    options = ("--calibration", "x.npy", "--no-refine", "--no-report")
    assert shell("convert", "model.pt", "-o", "small.pt", *options).code == 0
    layers = read_json("small.plan.json")["convolutions"]
    assert {layer["block_error"] for layer in layers} == {None}
    assert any(layer["heldout_error"] for layer in layers)
