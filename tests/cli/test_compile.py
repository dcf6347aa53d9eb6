"""sepify compile."""

from __future__ import annotations

import pytest
import torch
from shells import files

from sepify.compiling import load_compiled
from sepify.formats.torchscript_read import load_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_compile_then_load(shell):
    done = shell("compile", "model.pt", "-o", "bundle")
    assert done.code == 0, done.err
    assert "compiled for native; largest relative error" in done.out
    assert "wrote bundle" in done.err
    compiled = load_compiled("bundle")
    wanted = load_torchscript("model.pt").module(torch.ones(1, 3, 12, 12))
    torch.testing.assert_close(compiled(torch.ones(1, 3, 12, 12)), wanted, rtol=1e-4, atol=1e-5)


def test_targets_are_listed_and_near_names_offered(shell):
    listed = shell("compile", "--target", "list")
    assert listed.code == 0
    assert {"native", "x86-64-v3"} <= set(listed.out.split())
    wrong = shell("compile", "model.pt", "-o", "bundle", "--target", "x86-64-v33")
    assert wrong.code == 2
    assert "x86-64-v3" in wrong.err
    missing = shell("compile", "model.pt")
    assert missing.code == 2
    assert "needs a MODEL and an output folder" in missing.err
    assert files() == {"model.pt", "x.npy"}
