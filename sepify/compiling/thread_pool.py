"""The thread pool under compiled networks: ours (runner/sepify_threads.c), in place of TVM's own.

TVM fills in the address of what runs parallel loops when it loads code; before that it is told of
ours. A saved network carries the pool in its library. One that was compiled just now does not: the
pool is compiled for it, which takes a C compiler and a tenth of a second. There is one in a
process.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import tvm_ffi
from tvm_ffi.libinfo import find_libtvm_ffi

from sepify.compiling.c_compiler import run_compiler, system_compiler
from sepify.errors import ThreadWarning
from sepify.storage import temporary_folder

OURS, TVMS = "sepify", "tvm"
MOST_THREADS = 64  # SEPIFY_MOST_THREADS

_SOURCE = "sepify_threads.c"
_INTERFACE = 1  # sepify_threads_interface: another version's pool is not taken
_FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-pthread", "-DSEPIFY_THREADS")

_lock = threading.Lock()
_pool: ctypes.CDLL | None = None
_name = ""  # OURS or TVMS, once there is one
_threads = 0  # asked for; 0: as many as there may be


def most_threads() -> int:
    """TVM_NUM_THREADS, or one for each core that this process may use."""
    told = os.environ.get("TVM_NUM_THREADS", "")
    wanted = int(told) if told.isdigit() else len(os.sched_getaffinity(0))
    return max(1, min(wanted, MOST_THREADS))


def use_threads(count: int) -> int:
    """Run parallel loops on `count` threads, now or once there is a pool; how many they run on:
    fewer where there may not be so many."""
    global _threads
    with _lock:
        _threads = min(count, most_threads())
        if _name:
            _apply()
        return _threads


def install(library: Path | None) -> str:
    """Have a pool before code is loaded: the one in `library`, if it carries one, or one compiled
    here. Where neither can be, TVM's own is left, and a ThreadWarning says so. OURS or TVMS."""
    global _pool, _name
    if _name:
        return _name  # a forked child may have the lock held by nobody who is there
    with _lock:
        if not _name:
            _pool = _carried_by(library) or _compiled()
            if _pool is None:
                # as near as it comes: its idle threads sleep at once
                os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")
            else:
                _register(_pool)
            _name = TVMS if _pool is None else OURS
            _apply()
        return _name


def compile_object(folder: Path) -> Path | None:
    """The pool as an object file in `folder`, to be linked into a library; None where there is no
    C compiler."""
    path = folder / "sepify_threads.o"
    return path if _compile(path, "-c") else None


def _apply() -> None:
    count = _threads or most_threads()
    if _pool is None:
        one_thread, share_all_cores = 1, -3  # modes; the second does not pin threads to cores
        mode = one_thread if count == 1 else share_all_cores
        cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
        tvm_ffi.get_global_func("runtime.config_threadpool")(mode, count, cores)
    else:
        _pool.sepify_use_threads(count)  # they are made when they are first needed


def _carried_by(library: Path | None) -> ctypes.CDLL | None:
    if library is None:
        return None
    loaded = ctypes.CDLL(str(library))
    try:
        interface = ctypes.c_int.in_dll(loaded, "sepify_threads_interface").value
    except ValueError:  # saved without a pool
        return None
    return loaded if interface == _INTERFACE else None


def _compiled() -> ctypes.CDLL | None:
    with temporary_folder() as folder:
        path = folder / "libsepify_threads.so"
        if _compile(path, "-shared"):
            return ctypes.CDLL(str(path))
    warnings.warn(
        "no C compiler: parallel loops run on TVM's own thread pool, which waits for busy cores; "
        "install one (apt install gcc), or load a network that was saved where there is one",
        ThreadWarning,
        stacklevel=2,
    )
    return None


def _compile(path: Path, kind: str) -> bool:
    """Whether there is a compiler. Raises CompileError where it fails, FileError where it has no
    room."""
    compiler = system_compiler()
    if compiler is None:
        return False
    with resources.as_file(resources.files("sepify.compiling") / "runner") as sources:
        run_compiler(compiler, [*_FLAGS, kind, "-x", "c", sources / _SOURCE], path)
    return True


class _Errors(ctypes.Structure):
    """SepifyErrors."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("take", "raise", "release", "say"))


_errors: _Errors | None = None  # the pool keeps its address


def _register(pool: ctypes.CDLL) -> None:
    global _errors
    ffi = ctypes.CDLL(find_libtvm_ffi())
    calls = ("ErrorMoveFromRaised", "ErrorSetRaised", "ObjectDecRef", "ErrorSetRaisedFromCStr")
    _errors = _Errors(*(_address(getattr(ffi, f"TVMFFI{name}")) for name in calls))
    pool.sepify_hand_over_errors(ctypes.byref(_errors))
    ffi.TVMFFIEnvModRegisterContextSymbol(
        b"__TVMBackendParallelLaunch", ctypes.c_void_p(_address(pool.sepify_parallel))
    )


def _address(function: Any) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value
