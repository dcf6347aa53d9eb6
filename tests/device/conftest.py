"""Where a board is played by qemu-user: skipped, saying so, where it or a cross compiler is not
installed (`make test-device` installs them)."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from device.emulator import launcher_of

BOARD = "raspberry-pi-4"
NEEDED = ("qemu-aarch64", "qemu-arm", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc", "cc")


def pytest_collection_modifyitems(items):
    missing = [name for name in NEEDED if shutil.which(name) is None]
    for item in items:
        if "tests/device/" in str(item.path).replace("\\", "/"):
            item.add_marker(pytest.mark.device)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """For the board, which takes the place of this machine."""
    from sepify.compiling import make_bundle

    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    folder = tmp_path_factory.mktemp("board") / "bundle"
    return make_bundle(model, torch.randn(1, 3, 9, 9), BOARD, folder).path


@pytest.fixture
def launcher():
    return launcher_of(BOARD)
