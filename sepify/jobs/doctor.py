"""What `sepify doctor` looks at: packages, programs, the CPU, and which command lacks what."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sepify.printable import printable_tree
from sepify.process.machine import Machine, this_machine

# requirement strings of the package's own metadata are the truth; these are what each extra is for
EXTRAS = {
    "tvm": "compile; TVM's column in report and demo",
    "onnx": "convert to .onnx; onnxruntime's column in report",
    "distill": "distill",
    "width": "convert --width",
    "datasets": "--data with a Hugging Face dataset on disk",
}
PROGRAMS = {
    "cc": "compile for this machine; several threads there",
    "aarch64-linux-gnu-g++": "compile for 64-bit ARM",
    "arm-linux-gnueabihf-g++": "compile for 32-bit ARM",
    "qemu-aarch64": "run a 64-bit ARM bundle here",
    "qemu-arm": "run a 32-bit ARM bundle here",
}
TOLD = ("torch", "numpy", "scipy")


@dataclass(frozen=True)
class Need:
    """An extra or a program: what it is for, what of it is there, and what is missing with the
    command that installs it."""

    name: str
    what_for: str
    ready: bool
    found: str
    missing: str


@dataclass(frozen=True)
class Examination:
    """Everything that `sepify doctor` tells."""

    versions: dict[str, str]
    machine: Machine
    commands: tuple[Need, ...]

    def to_dict(self) -> dict[str, Any]:
        """In plain JSON types."""
        return asdict(self)


def examine() -> Examination:
    """Look, without importing anything heavy."""
    versions = {"python": platform.python_version(), "sepify": version("sepify")}
    versions |= {name: version(name) for name in TOLD}
    wanted = _wanted(requires("sepify") or [])
    needs = [
        _extra(name, what_for, wanted[name])
        for name, what_for in EXTRAS.items()
        if wanted.get(name)
    ]
    needs += [_program(name, what_for) for name, what_for in PROGRAMS.items()]
    return Examination(versions, this_machine(), tuple(needs))


def _wanted(requirements: Sequence[str]) -> dict[str, list[str]]:
    """The packages of each extra, from the metadata that the package was installed with."""
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        package, _, condition = requirement.partition(";")
        for quote in ("'", '"'):
            _, marked, rest = condition.partition(f"extra == {quote}")
            if marked:
                name = package.strip()
                for mark in "=<>!~[ ":
                    name = name.partition(mark)[0]
                extras.setdefault(rest.partition(quote)[0], []).append(name)
    return extras


def _extra(name: str, what_for: str, packages: Sequence[str]) -> Need:
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    advice = f"no {', '.join(missing)}: pip install 'sepify[{name}]'" if missing else ""
    return Need(f"sepify[{name}]", what_for, not missing, ", ".join(found), advice)


def _program(name: str, what_for: str) -> Need:
    place = shutil.which(name)
    return Need(name, what_for, place is not None, place or "", "" if place else "not installed")


def render(found: Examination) -> Group:
    """For a terminal of 80 columns."""
    found = printable_tree(found)
    machine = found.machine
    extensions = " ".join(machine.extensions) or "no vector units that sepify knows"
    head = [
        ", ".join(f"{name} {number}" for name, number in found.versions.items()),
        f"{machine.cpu}, {machine.cpus} CPUs, {machine.system}",
        f"vector units: {extensions}; clock governor: {machine.governor or 'not told'}",
    ]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("", "needed for", "found, or what to do"):
        table.add_column(title, overflow="fold")
    for need in found.commands:
        mark = Text(
            f"{'ok' if need.ready else '--'} {need.name}", style="green" if need.ready else "yellow"
        )
        table.add_row(mark, Text(need.what_for), Text(need.found if need.ready else need.missing))
    return Group(Text("\n".join(head)), table)
