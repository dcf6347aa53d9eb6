"""torchmetrics loads torchvision wherever there is one; the zoo's does not load beside a CPU torch
without its shim."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parent.parent

if find_spec("torchvision"):
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        import zoo.torchvision_shim  # noqa: F401


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Many tests compare bits, which a GPU does not repeat from run to run."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


@pytest.fixture
def environment(tmp_path):
    """For a process of its own: as many threads as here (sums are taken in another order by more),
    no GPU, which two processes could not share, this checkout, and the shim where it is needed."""
    folders = [str(TESTS.parent), str(TESTS)]
    if "zoo.torchvision_shim" in sys.modules:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text("import zoo.torchvision_shim\n")
        folders.append(str(tmp_path / "site"))
    threads = str(torch.get_num_threads())
    paths = os.pathsep.join(folders)
    own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own}
