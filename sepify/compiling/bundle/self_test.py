"""What a bundle's writer hands back, and its self-test, run here before the bundle is kept."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from sepify.errors import CompileError

_SECONDS = 600  # under an emulator


@dataclass(frozen=True)
class Written:
    """Sizes in bytes of what a bundle takes on the device, by what it is for."""

    memory: dict[str, int]


@dataclass(frozen=True)
class SelfTest:
    """Where it ran ("on this CPU", "under qemu-aarch64"), and what it printed."""

    where: str
    words: str


def run_self_test(command: Sequence[str], where: str) -> SelfTest:
    """Run a bundle's self-test. Raises CompileError if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"the self-test {where} did not finish in {_SECONDS} s") from error
    lines = (done.stdout if done.stdout.strip() else done.stderr).strip().splitlines()
    last = lines[-1] if lines else f"exit code {done.returncode}"
    words = last.removeprefix("self-test: ")
    if done.returncode:
        raise CompileError(f"the self-test {where} failed: {words}; this is a bug in sepify or TVM")
    return SelfTest(where, words)
