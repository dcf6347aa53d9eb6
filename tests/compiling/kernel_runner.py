"""Builds a kernel and runs it on torch tensors, for tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sepify.compiling.dependencies import require_tvm
from sepify.compiling.kernels.source import Kernel


def run_kernel(kernel: Kernel, *inputs: Tensor | np.ndarray) -> np.ndarray:
    """The kernel's output; every input must have exactly the shape that it declares."""
    require_tvm()
    import tvm

    from sepify.compiling import tvm_api

    target = tvm_api.make_target({"kind": "llvm", "mcpu": tvm_api.host_cpu()})
    function = tvm_api.parse_kernel(kernel).with_attr("global_symbol", kernel.name)
    built = tvm.compile(tvm.IRModule({kernel.name: function}), target=target)
    arrays = [
        np.ascontiguousarray(value, dtype=buffer.element.name)
        for value, buffer in zip(inputs, kernel.inputs, strict=True)
    ]
    assert [array.shape for array in arrays] == [buffer.shape for buffer in kernel.inputs]
    # NaN where the kernel forgets to write
    output = np.full(kernel.output.shape, np.nan, dtype=kernel.output.element.name)
    tensors = [tvm.runtime.tensor(array) for array in (*arrays, output)]
    built[kernel.name](*tensors)
    return tensors[-1].numpy()


def block(x: Tensor, lanes: int) -> np.ndarray:
    """`(N, C, H, W)` -> `(N, C/v, H, W, v)`."""
    batch, channels, height, width = x.shape
    padded = np.pad(x.numpy(), ((0, 0), (0, -channels % lanes), (0, 0), (0, 0)))
    return padded.reshape(batch, -1, lanes, height, width).transpose(0, 1, 3, 4, 2)


def unblock(y: np.ndarray, channels: int) -> Tensor:
    """`(N, C/v, H, W, v)` -> `(N, C, H, W)`; the lanes that hold no channel must be zero."""
    batch, _, height, width, _ = y.shape
    plain = y.transpose(0, 1, 4, 2, 3).reshape(batch, -1, height, width)
    assert not plain[:, channels:].any()
    return torch.from_numpy(plain[:, :channels].copy())


def assert_close(ours: Tensor, theirs: Tensor, depth: int, growth: float = 1.0) -> None:
    """Equal but for float32 rounding in sums of `depth` products (Higham's bound is depth * u; the
    order of summation differs, so the errors of both add up), `growth` times as large where the
    algorithm is worse than summing."""
    scale = float(theirs.abs().max()) or 1.0
    tolerance = 4 * max(depth, 8) ** 0.5 * 2.0**-24 * 4 * growth
    assert float((ours - theirs).abs().max()) / scale <= tolerance
