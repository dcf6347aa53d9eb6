"""Where a board is played by qemu-user: skipped, saying so, where it or a cross compiler is not
installed (`make test-device` installs them)."""

from __future__ import annotations

import shutil

import pytest

NEEDED = ("qemu-aarch64", "qemu-arm", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc", "cc")


def pytest_collection_modifyitems(items):
    missing = [name for name in NEEDED if shutil.which(name) is None]
    for item in items:
        if "tests/device/" in str(item.path).replace("\\", "/"):
            item.add_marker(pytest.mark.device)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))
