"""A compiled network: callable like the model it came from, and a folder on disk."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sepify.compiling import host
from sepify.compiling.answers import Structure, put_together, require_structure
from sepify.compiling.dependencies import require_tvm
from sepify.compiling.old_folder import METADATA, require_replaceable
from sepify.compiling.tuning import plain_loops
from sepify.compiling.weight_files import map_weights, write_weights
from sepify.errors import CompileError, FileError, InputError
from sepify.faults import reading
from sepify.storage import (
    atomic_path,
    decode,
    file_digest,
    read_json,
    temporary_folder,
    write_json,
)

FORMAT = 4
_LIBRARY = "module.so"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class CompiledMetadata:
    """What was compiled, for which CPU, and how good it is.

    `kernels` counts the calls of one inference by who made the code: `own`, `metaschedule`
    (tuned), `default` (TVM's plain lowering); `own_kernels` counts the first by kind.
    """

    target: str  # the preset's name
    tvm_target: dict[str, Any]
    features: tuple[str, ...]  # instruction set extensions that the code may use
    input_shapes: tuple[Shape, ...]  # batch included: they are fixed
    input_dtypes: tuple[str, ...]
    returns: Structure  # what the model returns, and where its tensors stand in that
    max_relative_error: float  # max |ours - torch's| / max |torch's|, on the example input
    seconds: float  # to compile
    versions: dict[str, str]  # of tvm, tvm_ffi, torch
    kernels: dict[str, int]
    own_kernels: dict[str, int]
    tuned_kernels: int  # calls of own kernels whose knobs were measured, now or before
    tuned_relative: float  # time of all own kernels over that untuned, if there was tuning; else 1
    trials: int  # new measurements
    failed_trials: int
    records_reused: int  # kernels and operators whose tuning records were there already
    given_up: dict[str, str]  # operators that MetaSchedule found no schedule for: plain loops; why
    memory: dict[str, int]  # bytes while it runs: weights, activations and outputs, inputs

    @property
    def layout_changes(self) -> int:
        """Packs into and unpacks from the blocked layout in one inference."""
        return self.own_kernels.get("pack", 0) + self.own_kernels.get("unpack", 0)

    @property
    def summary(self) -> str:
        """What a person wants to know of it, in a few lines."""
        peak, weights = self.peak_bytes / 1e6, self.memory["weights"] / 1e6
        lines = [
            f"compiled for {self.target}; largest relative error {self.max_relative_error:.1e}",
            f"{peak:.1f} MB at its peak, weights {weights:.1f} of them; "
            f"{self.layout_changes} layout changes",
        ]
        lines += plain_loops(self.given_up)
        if self.trials:
            less = 100 * (1 - self.tuned_relative)
            lines.append(
                f"tuning: {self.trials} trials, {self.failed_trials} failed; "
                f"own kernels take {less:.0f} % less time than untuned"
            )
        return "\n".join(lines)

    @property
    def peak_bytes(self) -> int:
        """Memory that one inference needs: weights, inputs, and the buffers that activations share.
        Not the code, the interpreter, or the strips of rows that a kernel keeps for each thread."""
        return sum(self.memory.values())


class CompiledModel:
    """A network compiled for one CPU and one set of input shapes.

    Call it with torch tensors `(N, C, H, W)`: contiguous ones are read where they are, and the
    result lies in memory that TVM allocated, without a copy. Threads may share an instance: its
    calls take turns. To run side by side, load one for each thread.
    """

    def __init__(
        self,
        executable: Any,
        weights: Sequence[Tensor],
        metadata: CompiledMetadata,
        library: Path | None = None,
    ) -> None:
        """`weights` are those that the code takes as parameters; `library` is the file that the
        executable was loaded from, if it was."""
        from sepify.compiling import thread_pool, tvm_runtime

        self.metadata = metadata
        self._executable = executable
        self._weights = list(weights)
        self._library = library
        self._entry: Callable[..., Any] = tvm_runtime.start(executable)
        self._thread_pool = thread_pool.install(library)
        self._borrow = tvm_runtime.borrow
        self._lend = tvm_runtime.lend
        self._borrowed_weights = [self._borrow(weight) for weight in self._weights]
        self._turn = threading.Lock()  # TVM's machine keeps the values of one inference
        _alive.add(self)

    def __call__(self, *inputs: Tensor) -> Any:
        """The model's output for `inputs`, as the model gives it: a tensor, or tuples, lists and
        plain dicts of tensors.

        Raises InputError if number, shapes, dtypes or device are not those it was compiled for.
        """
        self._require_fitting(inputs)
        borrowed = [self._borrow(tensor.detach().contiguous()) for tensor in inputs]
        with self._turn:
            given = self._entry(*borrowed, *self._borrowed_weights)
        answer = self._lend(given)
        tensors = (answer,) if isinstance(answer, Tensor) else answer
        return put_together(self.metadata.returns, tensors)

    @property
    def thread_pool(self) -> str:
        """Whose threads it runs on: "sepify", or "tvm" where there was no C compiler to make ours
        with, which is slow beside other busy processes."""
        return self._thread_pool

    def set_threads(self, n: int) -> None:
        """Run on `n` threads from now on. There is one thread pool in a process: this holds for
        every compiled model in it.

        Raises InputError if `n` is below 1, or above the number of cores, or above TVM_NUM_THREADS
        if that is set before the first use.
        """
        from sepify.compiling import thread_pool

        if n < 1:
            raise InputError(f"{n} threads: at least one is needed")
        most = thread_pool.most_threads()
        if n > most:
            raise InputError(
                f"{n} threads, but there may be {most}; set the environment variable "
                "TVM_NUM_THREADS before TVM is loaded to allow more (64 at most)"
            )
        thread_pool.use_threads(n)

    def save(self, folder: Path | str, *, replace: bool = False) -> Path:
        """Write the folder: code and small weights in a shared library, a file for each weight of
        a MiB or more, and the metadata as JSON.

        Whole or not at all. A folder of that name that holds a network compiled for the same target
        is replaced; one for another target, or a bundle, with `replace` alone. Linking needs a C
        compiler; one that was loaded is copied. Raises UsageError where anything else would be
        replaced, FileError if the folder cannot be written or what was loaded is gone, CompileError
        if the linker fails, DependencyError without one.
        """
        folder = Path(folder)
        require_replaceable(folder, self.metadata.target, METADATA, replace)
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            self._write_library(temporary / _LIBRARY)
            _, digest = file_digest(temporary / _LIBRARY)
            value = {
                "format": FORMAT,
                "library_sha256": digest,
                "weights_sha256": write_weights(temporary, self._weights),
                **asdict(self.metadata),
            }
            write_json(temporary / METADATA, value)
        return folder

    def __reduce__(self) -> tuple[Callable[[str], CompiledModel], tuple[str]]:
        """Another process loads it from the folder that it lies in. Raises CompileError if there
        is none."""
        if self._library is None:
            raise CompileError(
                "a network that was just compiled cannot be sent to another process: save it, and "
                "send what load_compiled gives, or the folder's name"
            )
        return load_compiled, (str(self._library.parent.absolute()),)

    def _start_anew(self, *inputs: Any) -> Any:
        """In the place of an entry that a fork has cut off in the middle of an inference."""
        from sepify.compiling import tvm_runtime

        self._entry = tvm_runtime.start(self._executable)
        return self._entry(*inputs)

    def _write_library(self, path: Path) -> None:
        if self._library is not None:
            try:
                shutil.copyfile(self._library, path)
            except FileNotFoundError as error:
                raise FileError(f"{self._library} was loaded, and is gone now") from error
            return
        from sepify.compiling import thread_pool, tvm_api

        with temporary_folder() as place:
            pool = thread_pool.compile_object(place)
            tvm_api.export(self._executable, path, carried=[pool] if pool else [])

    def _require_fitting(self, inputs: tuple[Tensor, ...]) -> None:
        expected = self.metadata
        if len(inputs) != len(expected.input_shapes):
            raise InputError(f"{len(inputs)} inputs; compiled for {len(expected.input_shapes)}")
        for index, tensor in enumerate(inputs):
            if not isinstance(tensor, Tensor):
                raise InputError(f"input {index} is a {type(tensor).__name__}, not a tensor")
            shape, dtype = expected.input_shapes[index], expected.input_dtypes[index]
            have = str(tensor.dtype).removeprefix("torch.")
            if tuple(tensor.shape) != shape or have != dtype or tensor.device.type != "cpu":
                raise InputError(
                    f"input {index} is {have} {tuple(tensor.shape)} on {tensor.device.type}; "
                    f"compiled for {dtype} {shape} on cpu (compile again for other shapes)"
                )


_alive: weakref.WeakSet[CompiledModel] = weakref.WeakSet()


def _after_fork() -> None:
    """A thread that was running a network is not there in a fork of the process."""
    for compiled in list(_alive):
        if compiled._turn.locked():
            compiled._turn = threading.Lock()
            compiled._entry = compiled._start_anew


os.register_at_fork(after_in_child=_after_fork)


def load_compiled(folder: Path | str) -> CompiledModel:
    """A compiled model from the folder that `save` wrote, whose large weights are mapped, not read:
    replace the folder by another as `save` does, but do not shorten its files while it is in use.

    Raises FileError if it is missing, damaged or made by another version; CompileError if this CPU
    lacks instructions that the code uses; DependencyError without TVM.
    """
    require_tvm()
    from sepify.compiling import tvm_runtime

    folder = Path(folder)
    if not folder.is_dir():
        raise FileError(f"no compiled model: {folder} is not a folder")
    metadata, library_digest, weight_digests = _read_metadata(folder / METADATA)
    for name in ("tvm", "tvm_ffi"):
        if metadata.versions.get(name) != tvm_runtime.VERSIONS[name]:
            raise FileError(
                f"{folder} was compiled with {name} {metadata.versions.get(name)}, "
                f"this is {tvm_runtime.VERSIONS[name]}: compile it again"
            )
    if not host.confirms(metadata.features):
        require_runnable(metadata.target, metadata.features)
    library = folder / _LIBRARY
    if not library.is_file():  # a pipe, for one, is none
        raise FileError(f"{folder} is incomplete: {_LIBRARY} is missing")
    if file_digest(library)[1] != library_digest:
        # the dynamic linker would take the whole process down
        raise FileError(f"{library} is damaged: it is not the file that was saved")
    weights = map_weights(folder, weight_digests)
    with reading(library, "a compiled network", "compile it again"):
        return CompiledModel(tvm_runtime.load(library), weights, metadata, library)


def require_runnable(target: str, features: tuple[str, ...]) -> None:
    """Raise CompileError if this CPU lacks some of the instruction set `features`."""
    from sepify.compiling import tvm_api

    missing = sorted(set(features) - tvm_api.host_features())
    if missing:
        raise CompileError(
            f"this CPU cannot run code for {target}: it lacks {', '.join(missing)}; "
            "compile for native or a smaller target"
        )


def _read_metadata(path: Path) -> tuple[CompiledMetadata, str, list[str]]:
    """The metadata, and the digests of the library and of the weights that belong to it."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else None
        raise FileError(f"{path} has format {found}, this reads {FORMAT}: compile it again")
    digests = ("library_sha256", "weights_sha256")
    try:
        library = decode(str, value.get(digests[0]), digests[0])
        weights = decode(list[str], value.get(digests[1]), digests[1])
        known = {k: v for k, v in value.items() if k not in ("format", *digests)}
        metadata = decode(CompiledMetadata, known, "metadata")
        if len(metadata.input_shapes) != len(metadata.input_dtypes):
            raise FileError("metadata.input_dtypes are not as many as input_shapes")
        if "weights" not in metadata.memory:
            raise FileError("metadata.memory.weights is missing")
        require_structure(metadata.returns)
    except (FileError, ValueError) as error:
        raise FileError(f"{path} is damaged: {error}; compile it again") from error
    return metadata, library, weights


def dtype_name(tensor: Tensor) -> str:
    """`float32` and the like."""
    return str(tensor.dtype).removeprefix("torch.")


def largest_relative_error(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """max |ours - theirs| / max |theirs| over all outputs; infinite where ours is not finite."""
    worst = 0.0
    for have, want in zip(ours, theirs, strict=True):
        if have.shape != want.shape or not bool(torch.isfinite(have).all()):
            return float("inf")
        scale = float(want.abs().max()) if want.numel() else 0.0
        difference = float((have - want).abs().max()) if want.numel() else 0.0
        worst = max(worst, difference / scale if scale else difference)
    return worst
