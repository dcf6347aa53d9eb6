"""Large weights of a compiled model: files apart from the code, mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sepify.compiling import compile, load_compiled
from sepify.errors import FileError


class Tied(nn.Module):
    """A large matrix used twice, another one, and small ones that stay with the code."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 512, 3, stride=2)
        self.twice = nn.Conv2d(512, 512, 1)
        self.last = nn.Linear(512, 600)

    def forward(self, x):
        y = self.twice(torch.relu(self.stem(x)))
        return self.last(self.twice(torch.relu(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def compiled():
    torch.manual_seed(0)
    return compile(Tied().eval(), torch.randn(1, 3, 16, 16))


@pytest.fixture
def folder(compiled, tmp_path):
    return compiled.save(tmp_path / "bundle")


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of the weights' files."""
    return {path.name: path.stat().st_size for path in folder.glob("*.npy")}


def test_large_weights_are_files_of_their_own_and_counted_as_weights(compiled, folder):
    found = sizes(folder)
    assert sorted(found) == ["weight0.npy", "weight1.npy"]
    assert sum(found.values()) >= 4 * 512 * (512 + 600)
    assert (folder / "module.so").stat().st_size < 600_000
    memory = compiled.metadata.memory
    assert memory["inputs"] == 4 * 3 * 16 * 16
    assert memory["weights"] >= 4 * (27 * 512 + 512 * 512 + 512 * 600)


def test_what_is_loaded_is_mapped_computes_the_same_and_is_saved_again(compiled, folder, tmp_path):
    x = torch.randn(1, 3, 16, 16)
    loaded = load_compiled(folder)
    assert torch.equal(loaded(x), compiled(x))
    mapped = Path("/proc/self/maps").read_text()
    assert str(folder / "weight0.npy") in mapped
    assert str(folder / "weight1.npy") in mapped
    copy = loaded.save(tmp_path / "copy")
    assert sizes(copy) == sizes(folder)
    assert torch.equal(load_compiled(copy)(x), compiled(x))


def test_a_network_in_use_outlives_its_folder_being_replaced(compiled, folder):
    x = torch.randn(1, 3, 16, 16)
    loaded = load_compiled(folder)
    compiled.save(folder)
    assert torch.equal(loaded(x), compiled(x))


def test_a_missing_or_damaged_weight_is_refused(folder):
    array = np.load(folder / "weight1.npy")
    array[..., -1] += 1
    np.save(folder / "weight1.npy", array)
    with pytest.raises(FileError, match=r"weight1.npy is damaged"):
        load_compiled(folder)
    (folder / "weight0.npy").unlink()
    with pytest.raises(FileError, match=r"no such file.*weight0.npy"):
        load_compiled(folder)
