"""A compiled model on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from sepify.compiling import compile, load_compiled
from sepify.errors import CompileError, FileError, InputError


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, 1, 1))
    return compile(model, torch.randn(1, 3, 24, 24))


@pytest.fixture
def folder(compiled, tmp_path):
    return compiled.save(tmp_path / "bundle")


def test_a_fresh_process_computes_the_same(compiled, folder, tmp_path):
    x = torch.randn(1, 3, 24, 24)
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch; from sepify.compiling import load_compiled; "
        "folder, x, y = sys.argv[1:]; "
        "torch.save(load_compiled(folder)(torch.load(x)).clone(), y)"
    )
    paths = [str(folder), str(tmp_path / "x.pt"), str(tmp_path / "y.pt")]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], check=True, capture_output=True, text=True
    )
    assert "Scope" not in done.stderr
    assert torch.equal(torch.load(tmp_path / "y.pt"), compiled(x))


class Ranked(nn.Module):
    """Two outputs, by an operator that lies in a library of its own in TVM."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return torch.topk(self.conv(x).mean((2, 3)), 3).values, x.mean(1)


def test_running_does_not_load_the_compiler_and_compiling_later_does(tmp_path):
    model, x = Ranked().eval(), torch.randn(1, 3, 24, 24)
    compile(model, x).save(tmp_path / "bundle")
    torch.save((model, x), tmp_path / "model.pt")
    code = """
import sys, torch, sepify
from test_saving import Ranked
bundle, file = sys.argv[1:]
model, x = torch.load(file, weights_only=False)
fast = sepify.load_compiled(bundle)
before = [part.clone() for part in fast(x)]
print("tvm" in sys.modules)
again = sepify.compile(model, x)
for have, other, want in zip(before, again(x), model(x), strict=True):
    torch.testing.assert_close(have, want)
    assert torch.equal(have, other)
assert all(torch.equal(a, b) for a, b in zip(before, fast(x), strict=True))
print("tvm" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bundle"), str(tmp_path / "model.pt")],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
    )
    assert done.stdout.split() == ["False", "True"]


def test_what_was_loaded_is_saved_as_a_copy(folder, compiled, tmp_path):
    loaded = load_compiled(folder)
    copy = load_compiled(loaded.save(tmp_path / "copy"))
    x = torch.randn(1, 3, 24, 24)
    assert torch.equal(copy(x), compiled(x))
    loaded.save(folder)
    assert load_compiled(folder).metadata == compiled.metadata
    (folder / "module.so").unlink()
    with pytest.raises(FileError, match="was loaded, and is gone now"):
        loaded.save(tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_metadata_comes_back_whole_and_saving_again_replaces(compiled, folder):
    assert load_compiled(folder).metadata == compiled.metadata
    compiled.save(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["metadata.json", "module.so"]
    assert [p.name for p in folder.parent.iterdir()] == ["bundle"]


def test_missing_and_damaged_folders(folder, tmp_path):
    with pytest.raises(FileError, match="not a folder"):
        load_compiled(tmp_path / "nowhere")
    library = (folder / "module.so").read_bytes()
    (folder / "module.so").write_bytes(library[:1000])
    with pytest.raises(FileError, match="damaged"):
        load_compiled(folder)
    (folder / "module.so").unlink()
    with pytest.raises(FileError, match="module.so is missing"):
        load_compiled(folder)
    (folder / "metadata.json").write_text("{")
    with pytest.raises(FileError, match="not valid JSON"):
        load_compiled(folder)


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        ("format", 0, FileError, "format 0"),
        ("versions", {"tvm": "0.1"}, FileError, "compiled with tvm 0.1"),
        ("features", ["avx2", "sse99"], CompileError, "lacks sse99"),
        ("input_shapes", 3, FileError, "damaged"),
    ],
)
def test_another_version_or_cpu_is_refused_before_it_runs(folder, key, value, error, words):
    metadata = json.loads((folder / "metadata.json").read_text())
    metadata[key] = value
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(error, match=words):
        load_compiled(folder)


def test_thread_counts_that_cannot_be(compiled):
    with pytest.raises(InputError, match="at least one"):
        compiled.set_threads(0)
    with pytest.raises(InputError, match="TVM_NUM_THREADS"):
        compiled.set_threads(4096)
