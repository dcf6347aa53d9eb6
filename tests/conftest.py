"""This machine as a board: a runtime bundle for it, and its server on loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress

import pytest
import torch
from torch import nn

SECRET = "a secret of its own".replace(" ", "-")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    pytest.importorskip("tvm")
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    from sepify.compiling import make_bundle

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    folder = tmp_path_factory.mktemp("board") / "bundle"
    return make_bundle(model, torch.randn(1, 3, 9, 9), "native", folder).path


@pytest.fixture(scope="session")
def secret(tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "secret.txt"
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture
def launcher():
    """What starts a program of the bundle."""
    return ()


@pytest.fixture
def start(bundle, secret, launcher):
    """Starts servers on free ports of loopback; gives (process, port)."""
    running = []

    def server(*options):
        command = [*launcher, str(bundle / "serve"), "--secret", str(secret), "--port", "0"]
        process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        running.append(process)
        line = process.stdout.readline()
        return process, int(re.search(r":(\d+),", line)[1])

    yield server
    for process in running:
        with suppress(ProcessLookupError):  # a test may have ended it
            os.killpg(process.pid, signal.SIGKILL)  # with those that serve a connection
        process.wait()


@pytest.fixture
def board(start, secret):
    """(server, the options that name it)."""
    server, port = start()
    return server, ("--device", f"127.0.0.1:{port}", "--secret", str(secret))
