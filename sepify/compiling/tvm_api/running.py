"""Running an executable in this process, on torch's memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import tvm
import tvm_ffi
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack
from tvm import relax


def set_thread_count(count: int) -> int:
    """Use `count` threads of TVM's pool, of which there is one in a process; how many it uses now,
    which is less where the pool is smaller."""
    one_thread, share_all_cores = 1, -3  # modes; the second does not pin threads to cores
    mode = one_thread if count == 1 else share_all_cores
    tvm_ffi.get_global_func("runtime.config_threadpool")(
        mode, count, [str(core) for core in sorted(os.sched_getaffinity(0))]
    )
    return int(tvm_ffi.get_global_func("runtime.NumThreads")())


def tensor(array: NDArray[Any], device: Any = None) -> Any:
    """A copy of the array for TVM, on this machine or on a board."""
    return tvm.runtime.tensor(np.ascontiguousarray(array), device=device)


def start(executable: Any) -> Callable[..., Any]:
    """The entry point of the executable, ready to call with TVM tensors, and its machine."""
    machine = relax.VirtualMachine(executable, tvm.cpu())
    entry: Callable[..., Any] = machine["main"]
    return entry


def borrow(tensor: torch.Tensor) -> Any:
    """The tensor's memory as a TVM tensor; copied only where it is not aligned as TVM expects."""
    if tensor.data_ptr() % 64:
        tensor = tensor.clone()
    return tvm.runtime.from_dlpack(tensor)


def lend(value: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """TVM's result as torch tensors on the same memory."""
    if isinstance(value, tvm.runtime.Tensor):
        return from_dlpack(value)
    return tuple(from_dlpack(part) for part in value)
