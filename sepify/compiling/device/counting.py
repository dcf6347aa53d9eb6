"""What a network costs on a CPU that is not here: instructions counted under emulation, and bytes.

No time is told: an emulator's says nothing about the device's.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor, nn

from sepify.compiling.bundle.c_bundle import build_example, write_c
from sepify.compiling.bundle.make import TOLERANCE
from sepify.compiling.bundle.self_test import run_self_test
from sepify.compiling.bundle.toolchain import Launcher, find_launcher, require_compiler
from sepify.compiling.c_compiler import run_compiler
from sepify.compiling.dependencies import require_tvm
from sepify.compiling.prepare import prepare
from sepify.compiling.targets import Target, find_target
from sepify.errors import CompileError, DependencyError
from sepify.storage import temporary_folder

_SECONDS = 900
_FEW, _MORE = 1, 3  # inferences, whose difference leaves out everything but inferences


@dataclass(frozen=True)
class Footprint:
    """One inference on one thread. Instructions as executed; sizes in bytes.

    `fma` are fused multiply-adds of four floats, `scalar_fma` of one. LLVM multiplies and adds
    apart where a CPU does not fuse well, as on a Cortex-A7: none then. `code` is the kernels'
    machine code, `arena` what the device sets aside for intermediate values, `peak` what of it is
    in use at one time.
    """

    instructions: int
    fma: int
    scalar_fma: int
    loads: int
    stores: int
    code: int
    weights: int
    arena: int
    peak: int


_COUNTED = ("instructions", "fma", "scalar_fma", "loads", "stores")  # as the plugin writes them
_WORDS = {
    "instructions": "instructions executed",
    "fma": "fused multiply-adds of 4 floats",
    "scalar_fma": "fused multiply-adds of 1 float",
    "loads": "loads",
    "stores": "stores",
    "code": "code of the kernels, bytes",
    "weights": "weights, bytes",
    "arena": "arena, bytes",
    "peak": "in use at one time, bytes",
}


def footprint(
    model: nn.Module,
    x: Tensor | tuple[Tensor, ...],
    target: str | Target,
    progress: Callable[[str, int, int], None],
) -> Footprint:
    """Compile `model` for an ARM target, check its self-test under qemu-user, and count.

    Two runs give the same counts. Raises DependencyError where qemu-user or a compiler is missing,
    CompileError where the target cannot be emulated, and what `make_bundle` does.
    """
    require_tvm()
    chosen = find_target(target)
    launcher = _emulator(chosen)
    compiler = require_compiler(chosen)
    ready = prepare(model, x, chosen, None, None, progress)
    with temporary_folder() as place:
        folder, program = place / "bundle", place / "program"
        folder.mkdir()
        memory = write_c(ready, folder, "network", TOLERANCE).memory
        build_example(compiler, folder, program)
        progress("self-test", 4, 6)
        run_self_test([*launcher.prefix, str(program), "--self-test"], launcher.words)
        progress("counting", 5, 6)
        few = _count(launcher, program, _FEW, place)
        more = _count(launcher, program, _MORE, place)
        code = _code_bytes(compiler, folder)
    one = {name: (more[name] - few[name]) // (_MORE - _FEW) for name in _COUNTED}
    sizes = {name: memory[name] for name in ("weights", "arena", "peak")}
    return Footprint(**one, code=code, **sizes)


def _emulator(target: Target) -> Launcher:
    if not target.is_foreign or "linux-gnu" not in target.triple:
        raise CompileError(
            f"instructions are counted for ARM with Linux, not for {target.name}: "
            "choose one such as raspberry-pi-4 or armv7"
        )
    launcher = find_launcher(target, ())
    if launcher is None or shutil.which("cc") is None:
        raise DependencyError(
            "counting needs qemu-user and a C compiler: apt install qemu-user gcc"
        )
    return launcher


def _count(launcher: Launcher, program: Path, repeat: int, place: Path) -> dict[str, int]:
    """Counts of the whole program, with `repeat` inferences in it."""
    plugin, counts = place / "count.so", place / "counts.txt"
    if not plugin.exists():
        with resources.as_file(resources.files("sepify.compiling") / "runner") as sources:
            run_compiler("cc", ["-shared", "-fPIC", "-O2", sources / "count_plugin.c"], plugin)
    # options of qemu come before the program, and its last one is -L FOLDER
    command = [*launcher.prefix, "-plugin", f"{plugin},out={counts}", "-d", "plugin"]
    command += [str(program), "--repeat", str(repeat)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"counting did not finish within {_SECONDS} s") from error
    if done.returncode or not counts.exists():
        cause = (done.stderr.strip().splitlines() or ["it wrote no counts"])[-1]
        raise CompileError(f"{launcher.prefix[0]} could not count instructions: {cause}")
    numbers = [int(word) for word in counts.read_text().split()]
    counts.unlink()
    return dict(zip(_COUNTED, numbers, strict=True))


def _code_bytes(compiler: str, folder: Path) -> int:
    """Machine code and read-only data of the kernels, as binutils' `size` tells."""
    tool = compiler.removesuffix("gcc") + "size"
    objects = sorted(str(path) for path in folder.glob("*.o"))
    done = subprocess.run([tool, *objects], capture_output=True, text=True)
    if done.returncode:
        raise CompileError(f"{tool} failed: {done.stderr.strip()}")
    return sum(int(line.split()[0]) for line in done.stdout.splitlines()[1:])


def footprint_table(target: str, before: Footprint, after: Footprint | None) -> Table:
    """Before beside after, for a person."""
    table = Table(box=None, title=f"one inference on {target}, counted under emulation: no times")
    table.add_column("")
    table.add_column("before" if after else target, justify="right")
    if after is not None:
        table.add_column("after", justify="right")
        table.add_column("before / after", justify="right")
    for field in fields(Footprint):
        old = getattr(before, field.name)
        row = [_WORDS[field.name], f"{old:,}"]
        if after is not None:
            new = getattr(after, field.name)
            row += [f"{new:,}", f"{old / new:.2f}" if new else "-"]
        table.add_row(*row)
    return table


def footprint_json(target: str, before: Footprint, after: Footprint | None) -> dict[str, Any]:
    """The same for a program."""
    value: dict[str, Any] = {"target": target, "counted": "under emulation", "threads": 1}
    value["before"] = asdict(before)
    if after is not None:
        value["after"] = asdict(after)
    return value
