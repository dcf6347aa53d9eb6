"""Programs for ARM, run here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CPUS = {
    "raspberry-pi-2": ("qemu-arm", "cortex-a7", "/usr/arm-linux-gnueabihf"),
    "raspberry-pi-3": ("qemu-aarch64", "cortex-a53", "/usr/aarch64-linux-gnu"),
    "raspberry-pi-4": ("qemu-aarch64", "cortex-a72", "/usr/aarch64-linux-gnu"),
    "raspberry-pi-5": ("qemu-aarch64", "cortex-a76", "/usr/aarch64-linux-gnu"),
}


def launcher_of(target: str, cpu: str | None = None) -> tuple[str, ...]:
    """What starts a program on the CPU of a board."""
    emulator, own, root = CPUS[target]
    return emulator, "-cpu", cpu or own, "-L", root


def emulate(
    target: str, *command: object, cpu: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program on the CPU of a board."""
    words = [*launcher_of(target, cpu), *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def outputs_of(target: str, program: Path, x: Tensor, expected: Tensor, place: Path) -> Tensor:
    """What `program` makes of `x`, shaped as `expected`."""
    (place / "x").write_bytes(x.numpy().tobytes())
    done = emulate(target, program, place / "x", place / "y")
    assert done.returncode == 0, done.stderr
    return torch.from_numpy(np.fromfile(place / "y", np.float32).reshape(expected.shape))
