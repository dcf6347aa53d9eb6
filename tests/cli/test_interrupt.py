"""Ctrl-C while the main thread is inside a call into C++ that Python does not come back from."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PROGRAM = """
import signal
import sys
import torch
from sepify.cli.interrupt import interruptible
from sepify.storage import atomic_path

class Forever(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while True:
            x = x + 1
        return x

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
script = torch.jit.script(Forever())
with interruptible(), atomic_path("small.pt") as temporary:
    temporary.write_text("half of it")
    print("running", flush=True)
    {last}
"""


def interrupted(last, folder):
    """The exit code and stderr of the program, which gets a SIGINT while it runs `last`, and leaves
    no file behind."""
    program, folder = folder / "program.py", folder / "folder"
    program.write_text(PROGRAM.format(last=last))
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, program],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout.readline() == "running\n"
        busy = psutil.Process(process.pid)
        before = busy.cpu_times().user
        while last.startswith("script") and busy.cpu_times().user < before + 0.3:
            time.sleep(0.05)  # until it is in the loop
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
        assert list(folder.iterdir()) == []
        return code, process.stderr.read()
    finally:
        process.kill()


def test_it_ends_and_leaves_nothing(tmp_path):
    code, told = interrupted("script(torch.zeros(1))", tmp_path)
    assert code == 130
    assert "interrupted" in told


def test_where_python_notices_it_is_an_exception_as_ever(tmp_path):
    code, told = interrupted("import time; time.sleep(60)", tmp_path)
    assert code == -signal.SIGINT  # what Python makes of an uncaught KeyboardInterrupt
    assert "KeyboardInterrupt" in told
