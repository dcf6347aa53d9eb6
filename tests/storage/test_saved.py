"""Files of torch.save are read without torch's loader, which trusts the sizes they announce."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from storage.forging import Marks, entries_of, packed, saved
from torch import nn

from sepify.errors import FileError
from sepify.storage.tensors import read_state, save_state


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    state: dict[str, Any] = {
        "numbers": [1, -(2**40), 2.5, True, None, "text", float("inf")],
        "nested": {"a": (1, [2, {"b": torch.ones(2, dtype=torch.bfloat16)}])},
        "views": [base, base[4:12].view(2, 4).t(), torch.empty(0, 3), torch.tensor(3)],
        "types": torch.float16,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "parameter": nn.Parameter(torch.ones(2), requires_grad=True),
    }
    save_state(state, tmp_path / "s")
    back = read_state(tmp_path / "s")
    assert back["numbers"] == state["numbers"]
    assert back["types"] is torch.float16
    assert isinstance(back["network"], OrderedDict)
    assert all(torch.equal(a, b) for a, b in zip(back["views"], state["views"], strict=True))
    assert back["views"][1].stride() == (1, 4)
    back["views"][0][4] = 100  # shared memory stays shared
    assert back["views"][1][0, 0] == 100
    assert back["parameter"].requires_grad
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    fresh.load_state_dict(back["network"])
    torch.optim.AdamW(fresh.parameters()).load_state_dict(back["optimizer"])
    assert torch.equal(back["random"], state["random"])


@pytest.mark.parametrize("kept", [0, 4, 15])
def test_a_record_that_is_short(tmp_path: Path, kept: int) -> None:
    entries = entries_of(saved({"a": torch.ones(4)}))
    (tmp_path / "s").write_bytes(packed({**entries, "data/0": bytes(kept)}))
    with pytest.raises(FileError, match=f"holds {kept} bytes in the record '0' where 4 numbers"):
        read_state(tmp_path / "s")


@pytest.mark.parametrize("value", [Marks(Path("ran")), nn.Conv2d(1, 1, 1), {1, 2}, b"x", 1 + 2j])
def test_other_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s").write_bytes(saved({"a": value}))
    with pytest.raises(FileError, match="pickled Python object|does not write"):
        read_state("s")
    assert os.listdir(tmp_path) == ["s"]


def test_containers_without_end(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    for value in (endless, deep):
        (tmp_path / "s").write_bytes(saved({"a": value}))
        with pytest.raises(FileError, match="nested more than 100 deep"):
            read_state(tmp_path / "s")
