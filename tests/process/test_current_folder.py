"""A folder of a stranger's, in which somebody runs sepify: nothing in it is imported or started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sepify.formats.torchscript_write import save_torchscript
from sepify.process.starting import leave_current_folder, python_command, python_environment
from sepify.process.user_modules import import_named

ROOT = Path(__file__).parents[2]
# of Python's own library, of torch, TVM and sepify, some first needed by a worker
NAMES = (
    *("_strptime", "argparse", "asyncio", "cloudpickle", "colorsys", "csv", "ctypes", "email"),
    *("json", "logging", "numpy", "pickle", "platform", "psutil", "random", "runpy", "scipy"),
    *("sepify", "shutil", "signal", "sitecustomize", "socket", "struct", "subprocess", "tempfile"),
    *("threading", "torch", "tvm", "tvm_ffi", "typing", "uuid", "xgboost", "xml", "zipfile"),
)


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The current folder: every module in it says that it was run, by a file."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(
            f"open({str(folder)!r} + '/RUN-{name}', 'w')\nraise ImportError('evil {name}')\n"
        )
    for name in ("cc", "gcc", "c++", "ld"):
        (folder / name).write_text(f"#!/bin/sh\ntouch {folder}/RUN-{name}\nexit 1\n")
        (folder / name).chmod(0o755)
    monkeypatch.chdir(folder)
    return folder


def run_there(folder):
    return sorted(path.name for path in folder.glob("RUN-*"))


def test_a_worker_imports_nothing_from_there(hostile, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(ROOT), ""]))  # empty: it is there
    again = [sys.executable, "-m", "json.tool", "--help"]  # what a worker may start itself
    for command in (python_command("tvm.exec.popen_worker"), again):
        if command is again and sys.version_info < (3, 11):
            continue  # Python 3.10 has no such setting in the environment
        done = subprocess.run(
            command, env=python_environment(), capture_output=True, text=True, timeout=120
        )
        assert "usage" in (done.stdout + done.stderr).lower()
    assert run_there(hostile) == []


def test_tuning_there_runs_nothing_of_it(hostile):
    pytest.importorskip("tvm")
    (hostile / "sepify.py").unlink()  # `python -m sepify` names it
    torch.manual_seed(0)
    # a kernel of our own, and one for MetaSchedule, whose workers are TVM's
    wide = nn.ConvTranspose2d(8, 4, 2, dilation=2)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), wide).eval()
    save_torchscript(torch.jit.script(net), "model.pt", [(1, 3, 8, 8)])
    command = [sys.executable, "-m", "sepify", "compile", "model.pt", "-o", "out", "--tune", "3"]
    done = subprocess.run(
        [*command, "--database", "db"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PATH": os.pathsep.join(["", os.environ["PATH"], "."]),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run_there(hostile) == []
    assert done.returncode == 0, done.stderr
    assert "trials" in done.stdout


def test_a_named_module_may_lie_there_but_stands_in_for_no_library(hostile):
    (hostile / "own_net.py").write_text(
        "import csv, xml.dom\nimport own_neighbour\nmake = own_neighbour.make\n"
    )
    (hostile / "own_neighbour.py").write_text("def make():\n    return 3\n")
    for name in ("csv", "xml", "xml.dom"):
        sys.modules.pop(name, None)
    before = list(sys.path), list(sys.meta_path)
    assert import_named("own_net:make")() == 3
    assert (sys.path, sys.meta_path) == before
    assert run_there(hostile) == []


def test_the_folder_goes_before_what_is_installed_for_the_named_module_alone(tmp_path, monkeypatch):
    (tmp_path / "antigravity.py").write_text("make = 4\n")  # Python's own of that name: a joke
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    assert import_named("antigravity:make") == 4


def test_programs_are_not_looked_for_there(monkeypatch):
    monkeypatch.setenv("PATH", os.pathsep.join(["", "/usr/bin", ".", "/bin"]))
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(["/opt/lib", ""]))
    leave_current_folder()
    assert os.environ["PATH"] == os.pathsep.join(["/usr/bin", "/bin"])
    assert os.environ["LD_LIBRARY_PATH"] == "/opt/lib"
