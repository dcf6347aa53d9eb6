"""The examples of docs/distillation.md, as they stand there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distilling.students import pictures, student, teacher, weights

import sepify
from sepify.distilling import DistillationPair
from sepify.storage.tensors import read_state

PAGE = Path(__file__).parents[2] / "docs" / "distillation.md"


def example(name: str) -> str:
    """The Python that follows the mark "tested: name"."""
    found = re.search(rf"<!-- tested: {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, f"docs/distillation.md has no example {name!r}"
    return found[1]


@pytest.fixture
def names():
    network = teacher()
    return {
        "sepify": sepify,
        "torch": torch,
        "model": network,
        "small": student(network),
        "images": pictures(),
        "epochs": 3,
    }


def loss_of(names, small) -> float:
    with torch.no_grad():
        return float(DistillationPair(small, names["model"], pictures(64))(pictures(64)))


def test_a_loop_of_ones_own(names):
    names["epochs"] = 20  # the first few steps of so small a network go astray
    start = loss_of(names, names["small"])
    exec(example("loop"), names)
    assert loss_of(names, names["small"]) < 0.9 * start


@pytest.mark.filterwarnings("ignore")
def test_lightning(names, tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)  # it writes its logs here
    start = loss_of(names, names["small"])
    exec(example("lightning"), names)
    assert loss_of(names, names["small"]) < 0.9 * start
    assert all(torch.isfinite(tensor).all() for tensor in weights(names["small"]).values())


BEFORE = """
import sys
import torch
import sepify
from distilling.students import pictures, student, teacher
from sepify.storage.tensors import save_state

model, images, epochs = teacher(), pictures(), 3
small = student(model)
"""
AFTER = """
import os
save_state(small.state_dict(), sys.argv[1] + os.environ["RANK"])
"""


def test_ddp_in_two_processes(names, tmp_path, environment):
    script = tmp_path / "script.py"
    script.write_text(BEFORE + example("ddp") + AFTER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launch, script, tmp_path / "state"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    states = [read_state(tmp_path / f"state{rank}") for rank in (0, 1)]
    for name, _ in names["small"].named_parameters():
        torch.testing.assert_close(states[0][name], states[1][name])
    start = loss_of(names, names["small"])
    names["small"].load_state_dict(states[0])
    assert loss_of(names, names["small"]) < 0.9 * start
