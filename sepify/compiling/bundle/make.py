"""make_bundle(): a model becomes a folder that is copied to a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from sepify.compiling.budget import parse_budget
from sepify.compiling.bundle.c_bundle import check_c, require_identifier, write_c
from sepify.compiling.bundle.checksums import write_checksums
from sepify.compiling.bundle.runtime_bundle import check_runtime, write_runtime
from sepify.compiling.bundle.self_test import SelfTest
from sepify.compiling.dependencies import require_tvm
from sepify.compiling.device.boards import Farm
from sepify.compiling.model import dtype_name
from sepify.compiling.old_folder import FACTS, require_replaceable
from sepify.compiling.prepare import STAGES, Prepared, prepare
from sepify.compiling.targets import Target, find_target
from sepify.errors import UsageError
from sepify.process.state import keeps_process_state
from sepify.storage import atomic_path, file_digest, pack, write_json

FORMAT = 1
TOLERANCE = 1e-4  # of the self-test: as between torch and what runs here
_PACKED = ".tar.xz"
KINDS = ("runtime", "c")
_AS_IT_IS = "none: values go in as the model takes them"


@dataclass(frozen=True)
class Bundle:
    """What was written, in bytes: all files together; `memory` by what it is for."""

    path: Path
    packed: int | None  # of the archive, if it is one
    kind: str
    target: str
    total: int
    memory: dict[str, int]
    kernels: dict[str, int]  # as in CompiledMetadata
    trials: int  # of tuning
    failed: int
    tested: SelfTest | None  # None where nothing here can run it

    @property
    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"bundle for {self.target} ({self.kind}): {_size(self.total)}"]
        if self.packed is not None:
            lines[0] += f", packed {_size(self.packed)}"
        lines.append(", ".join(f"{what} {_size(size)}" for what, size in self.memory.items()))
        if self.trials:
            lines.append(f"{self.trials} candidates timed, {self.failed} of them failed")
        plain, calls = self.kernels["default"], sum(self.kernels.values())
        if plain:
            lines.append(f"{plain} of {calls} kernel calls are TVM's plain ones, not tuned")
        if self.tested is None:
            lines.append("not run here: run its self-test on the device")
        else:
            lines.append(f"self-test {self.tested.where}: {self.tested.words}")
        return "\n".join(lines)


@keeps_process_state
def make_bundle(
    model: fx.GraphModule | nn.Module,
    x: Tensor | tuple[Tensor, ...],
    target: str | Target,
    folder: Path | str,
    *,
    kind: str = "runtime",
    name: str = "network",
    preprocessing: str | None = None,
    tune: str | int | None = None,
    database: Path | str | None = None,
    farm: Farm | None = None,
    replace: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Bundle:
    """Compile `model` for `target` at the shapes of `x` and write a folder for the device.

    Nothing need run here. Where this machine can run the target's code, or qemu-user is installed,
    the bundle's self-test is run before the bundle is kept: `x`, stored with torch's outputs, must
    give those outputs.

    Args:
        model: anything that `sepify.capture` takes.
        x: the example input `(N, C, H, W)`, or a tuple of inputs; N at least 1.
        target: a preset of `targets()`, or a Target.
        folder: written whole or not at all. A folder of that name that holds a bundle for the same
            target is replaced; anything else is refused. A name that ends in .tar.xz gives one
            file, which `tar xf` unpacks to a folder.
        kind: "runtime" (TVM's runtime, a runner, a Python loader) or "c" (C alone).
        name: of the C functions, for kind "c".
        preprocessing: a note for whoever feeds it, kept in `model.json`.
        tune, database: as in `sepify.compile`.
        farm: boards to measure candidates on (`find_farm`); without one nothing is tuned for a
            target that this machine cannot run. MetaSchedule's operators are never tuned there.
        replace: replace a bundle for another target too, or a compiled network.
        progress: called with (what, done, total).

    Raises what `sepify.compile` does, FileError if the folder cannot be written, DependencyError
    where a compiler is missing.
    """
    require_tvm()
    if kind not in KINDS:
        raise UsageError(f"--bundle {kind!r}: choose runtime or c")
    require_identifier(name)
    budget = parse_budget(tune)
    chosen = find_target(target)
    if chosen.is_foreign and farm is None and not budget.is_none:
        raise UsageError(
            f"tuning for {chosen.name} needs a board to measure on: --device or --tracker"
        )
    if farm is not None and budget.is_none:
        raise UsageError("boards are for tuning: give --tune as well, such as --tune 10min")
    require_replaceable(Path(folder), chosen.name, FACTS, replace)
    note = progress or _silent
    started = time.monotonic()
    affordable = None if chosen.is_foreign and farm is None else budget
    ready = prepare(model, x, chosen, affordable, database, note, farm)
    note("building", 4, STAGES)
    folder = Path(folder)
    packed = folder.name.endswith(_PACKED)
    with atomic_path(folder) as destination:
        temporary = destination.with_name("bundle") if packed else destination
        temporary.mkdir()
        if kind == "c":
            written = write_c(ready, temporary, name, TOLERANCE)
        else:
            written = write_runtime(ready, temporary, TOLERANCE)
        facts = _facts(ready, kind, name, preprocessing or _AS_IT_IS, time.monotonic() - started)
        facts["memory"] = written.memory
        facts["files"] = {path.name: file_digest(path)[1] for path in sorted(temporary.iterdir())}
        write_json(temporary / FACTS, facts)
        write_checksums(temporary)
        note("checking", 5, STAGES)
        tested = check_c(ready, temporary) if kind == "c" else check_runtime(ready, temporary)
        total = sum(path.stat().st_size for path in temporary.iterdir())
        if packed:
            pack(temporary, destination, folder.name.removesuffix(_PACKED))
    return Bundle(
        path=folder,
        packed=folder.stat().st_size if packed else None,
        kind=kind,
        target=chosen.name,
        total=total,
        memory=written.memory,
        kernels=ready.kernels,
        trials=ready.own.tuning.trials + ready.tuned.trials,
        failed=ready.own.tuning.failed + ready.tuned.failed,
        tested=tested,
    )


def _facts(
    ready: Prepared, kind: str, name: str, preprocessing: str, seconds: float
) -> dict[str, Any]:
    """What `model.json` says of the network, for programs and people."""
    from sepify.compiling import tvm_runtime

    def values(tensors: tuple[Tensor, ...], word: str) -> list[dict[str, Any]]:
        return [
            {
                "name": f"{word}{index}",
                "shape": list(tensor.shape),
                "dtype": dtype_name(tensor),
                "stored": f"{word}{index}.bin",
            }
            for index, tensor in enumerate(tensors)
        ]

    return {
        "format": FORMAT,
        "kind": kind,
        "name": name,
        "target": ready.target.name,
        "tvm_target": ready.target.description,
        "features": list(ready.features),
        "inputs": values(ready.inputs, "input"),
        "outputs": values(ready.expected, "output"),
        "returns": ready.returns,
        "preprocessing": preprocessing,
        "tolerance": TOLERANCE,
        "kernels": ready.kernels,
        "own_kernels": ready.own_kernels,
        "seconds": round(seconds, 3),
        "versions": {**tvm_runtime.VERSIONS, "torch": torch.__version__},
    }


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody wants to see."""
