"""TVM's runtime without its compiler: all that running a compiled network needs.

`import tvm` loads a compiler of 260 MB, which takes longer than everything else that a process
does before its first inference. What is here goes through tvm_ffi and the runtime library alone;
importing it loads that library. The compiler can be imported later: it uses the same library.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import tvm_ffi
from torch.utils.dlpack import from_dlpack
from tvm_ffi.libinfo import load_lib_ctypes

from sepify.compiling import thread_pool
from sepify.compiling.dependencies import TVM_ABSENT
from sepify.errors import DependencyError

VERSIONS = {"tvm": version("apache-tvm"), "tvm_ffi": version("apache-tvm-ffi")}

_CPU, _POOLED = 1, 2  # DLPack's device type, the virtual machine's kind of allocator
_silence = threading.RLock()
_EXTRA = "tvm_runtime_extra"  # sorting and the like; not in every build of TVM


def _load_libraries() -> None:
    """As `import tvm` does, from where it does."""
    found = importlib.util.find_spec("tvm")
    if found is None or found.origin is None:
        raise DependencyError(TVM_ABSENT)
    folders = [Path(found.origin).parent / "lib"]
    if elsewhere := os.environ.get("TVM_LIBRARY_PATH"):
        folders.insert(0, Path(elsewhere))
    load_lib_ctypes("apache-tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=folders)
    if any(next(folder.glob(f"*{_EXTRA}.*"), None) for folder in folders):
        load_lib_ctypes("apache-tvm", _EXTRA, "RTLD_LOCAL", extra_lib_paths=folders)


_load_libraries()


def load(path: Path) -> Any:
    """An executable from a shared library; the first one that is loaded brings the thread pool."""
    thread_pool.install(path)
    with quiet():
        return tvm_ffi.load_module(str(path))


def start(executable: Any) -> Callable[..., Any]:
    """The entry point of an executable, from a file or just built, ready to call with TVM tensors,
    and its virtual machine."""
    thread_pool.install(None)
    library = executable if isinstance(executable, tvm_ffi.Module) else executable.jit()
    machine = library["vm_load_executable"]()
    machine["vm_initialization"](_CPU, 0, _POOLED)
    entry: Callable[..., Any] = machine["main"]
    return entry


def borrow(tensor: torch.Tensor) -> Any:
    """The tensor's memory as a TVM tensor; copied only where it is not aligned as TVM expects."""
    if tensor.data_ptr() % 64:
        tensor = tensor.clone()
    return tvm_ffi.from_dlpack(tensor)


def lend(value: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """TVM's result as torch tensors on the same memory."""
    if isinstance(value, tvm_ffi.Tensor):
        return from_dlpack(value)
    return tuple(from_dlpack(part) for part in value)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what TVM's C++ writes to stderr: a warning about the scope of each constant. One
    thread at a time: of two, the second would keep what the first has put there."""
    with _silence:
        sys.stderr.flush()
        saved = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)
