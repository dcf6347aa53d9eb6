"""Networks made ready to be sent to a board: kernels, weights and a pair of inputs and outputs."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from torch import Tensor, nn

from sepify.compiling.bundle.toolchain import require_compiler
from sepify.compiling.dependencies import require_tvm
from sepify.compiling.device.timing import Network, Value
from sepify.compiling.model import dtype_name
from sepify.compiling.prepare import prepare
from sepify.compiling.targets import Target, find_target
from sepify.errors import UsageError
from sepify.process.progress import Progress, silent
from sepify.storage import write_bytes

TOLERANCE = 1e-4  # of a bundle's self-test


def board_target(name: str) -> Target:
    """The target of that name, if boards of it can run our server and this machine can link for it.

    Raises UsageError for what is no such target, DependencyError without TVM or the compiler.
    """
    require_tvm()
    target = find_target(name)
    if name == "native":
        raise UsageError(
            "target 'native' is this machine, and not the board that was named: give the board's "
            "own, such as raspberry-pi-4 (sepify compile --target list)"
        )
    if not target.wheels:
        raise UsageError(
            f"target '{name}' cannot be timed on a board: there is no server for it, for TVM has "
            "no runtime packages"
        )
    require_compiler(target)
    return target


def link_network(
    model: nn.Module,
    x: Tensor | tuple[Tensor, ...],
    target: Target,
    progress: Progress = silent,
) -> Network:
    """Compile `model` for `target` as `sepify compile` does; its files are deleted when the result
    is. Raises what `sepify.compile` does."""
    from sepify.compiling import tvm_api

    ready = prepare(model, x, target, None, None, progress)
    executable = tvm_api.assemble(
        tvm_api.plan_memory(ready.module, ready.tvm_target), ready.tvm_target
    )
    folder = Path(tempfile.mkdtemp(prefix="sepify-"))
    network = Network(
        str(folder / f"{folder.name}.so"),
        _store(ready.inputs, folder, "input"),
        _store(ready.expected, folder, "output"),
        TOLERANCE,
    )
    weakref.finalize(network, shutil.rmtree, folder, ignore_errors=True)
    tvm_api.export(executable, Path(network.library), require_compiler(target))
    return network


def _store(tensors: tuple[Tensor, ...], folder: Path, word: str) -> tuple[Value, ...]:
    values = []
    for index, tensor in enumerate(tensors):
        path = folder / f"{word}{index}.bin"
        write_bytes(path, tensor.detach().contiguous().numpy().tobytes())
        values.append(Value(str(path), tuple(tensor.shape), dtype_name(tensor)))
    return tuple(values)
