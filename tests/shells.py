"""The command line as its user meets it: what is printed where, exit codes, files on the disk."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch
from nets import Plain, images, seeded

from sepify.cli import main
from sepify.formats.torchscript_write import save_torchscript
from sepify.formats.trial import SECONDS


class Shell:
    """Runs a command in this process; what came of it is `code`, `out` and `err`."""

    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *args: object) -> Shell:
        self.monkeypatch.setattr(sys, "argv", ["sepify", *map(str, args)])
        self.code = 0
        try:
            main()
        except SystemExit as stop:
            self.code = stop.code or 0
        self.out, self.err = self.capsys.readouterr()
        return self


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path):
    """A shell in a new folder, with a model and calibration images.

    What is loaded was made here: it is not tried in a child process first, which under pytest is a
    new interpreter and takes seconds. tests/formats/test_trial.py and the refusals do that.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SECONDS, "0")
    save_torchscript(torch.jit.trace(seeded(Plain(16)), images()), "model.pt", [(1, 3, 12, 12)])
    np.save("x.npy", images(32).numpy())
    return Shell(monkeypatch, capsys)


def files() -> set[str]:
    return set(os.listdir())
