"""The C compiler for a target, and the emulator that plays its CPU; both are other people's."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sepify.compiling.targets import Target, host_architecture
from sepify.errors import DependencyError

_PACKAGES = {
    "aarch64-linux-gnu-gcc": "apt install gcc-aarch64-linux-gnu",
    "arm-linux-gnueabihf-gcc": "apt install gcc-arm-linux-gnueabihf",
    "x86_64-linux-gnu-gcc": "apt install gcc-x86-64-linux-gnu",
    "cc": "apt install gcc",
}
_SYSROOTS = {"aarch64": "/usr/aarch64-linux-gnu", "armv7": "/usr/arm-linux-gnueabihf"}


def find_compiler(target: Target) -> str | None:
    """The C compiler for `target`, if it is installed: its own, or the system's where that is for
    the same processor and system."""
    if shutil.which(target.compiler):
        return target.compiler
    native = not target.is_foreign and target.architecture == host_architecture()
    return "cc" if native and shutil.which("cc") else None


def require_compiler(target: Target) -> str:
    """`find_compiler`, or DependencyError saying what to install."""
    found = find_compiler(target)
    if found is None:
        hint = _PACKAGES.get(target.compiler, f"put {target.compiler} on the PATH")
        raise DependencyError(
            f"linking for {target.name} needs {target.compiler}: {hint} "
            "(or --bundle c, which is compiled where it is used)"
        )
    return found


@dataclass(frozen=True)
class Launcher:
    """How a program for a target is started here: `prefix` before its path."""

    prefix: tuple[str, ...]
    words: str  # "on this CPU", "under qemu-aarch64"


def find_launcher(target: Target, features: Sequence[str]) -> Launcher | None:
    """Directly where this CPU has all `features`, under qemu-user where that is installed, or
    None."""
    from sepify.compiling import tvm_api

    if not target.is_foreign:
        runs = set(features) <= tvm_api.host_features()
        return Launcher((), "on this CPU") if runs else None
    emulators = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm"}
    emulator = shutil.which(emulators.get(target.architecture, ""))
    if emulator is None or "linux-gnu" not in target.triple:
        return None
    prefix = (emulator, "-cpu", "max", "-L", _SYSROOTS[target.architecture])
    return Launcher(prefix, f"under {Path(emulator).name}")
