"""What kernels ask for before they read it: all of it, and nothing where that would not help."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from sepify.compiling.dependencies import require_tvm
from sepify.compiling.kernels.dense import dense_kernel, dense_knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.separable import separable_kernel, separable_knobs
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.source import Kernel

MACHINES = [Machine(16, 32), Machine(8, 16), Machine(32, 32)]
NARROW = Machine(4, 16)  # asks for nothing
NOTHING = Epilogue()


def asked_for(kernel: Kernel, machine: Machine, name: str) -> np.ndarray:
    """Whether the kernel asks for each cache line of one of its inputs: a kernel is run that counts
    instead of asking."""
    require_tvm()
    from sepify.compiling import tvm_api

    shape = next(buffer.shape for buffer in kernel.inputs if buffer.name == name)
    # one more of the outermost, for places beyond the end
    counts = machine.buffer("COUNTS", (shape[0] + 1, *shape[1:]))
    place = re.compile(rf"T\.evaluate\(.*llvm\.prefetch.*T\.address_of\({name}\[(.*?)\]\).*\)$")
    counted = r"COUNTS[\1] = COUNTS[\1] + T.float32(1)"
    body = tuple(place.sub(counted, line.replace("T.parallel", "range")) for line in kernel.body)
    counting = replace(kernel, inputs=(*kernel.inputs, counts), body=body)
    target = tvm_api.make_target({"kind": "llvm", "mcpu": tvm_api.host_cpu()})
    function = tvm_api.build_kernel(counting, target)
    arrays = [np.zeros(b.shape, np.float32) for b in (*counting.inputs, counting.output)]
    tensors = [tvm_api.tensor(array) for array in arrays]
    function(*tensors)
    return tensors[-2].numpy()[: shape[0]].reshape(-1, machine.line_elements).any(1)


def depthwise(channels: int, side: int, stride: int) -> Conv:
    """3x3, padded."""
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1))
    out = side // stride
    return Conv(1, channels, side, side, channels, window, out, out, channels)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine.lanes} lanes")
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_rows_of_the_next_strip(machine, rank, stride):
    conv, rows = depthwise(64, 32, stride), 4
    knobs = replace(separable_knobs(conv, rank, 32, machine), rows=rows)
    kernel = separable_kernel(conv, rank, 32, NOTHING, NOTHING, machine, knobs)
    asked = asked_for(kernel, machine, "X").reshape(machine.blocks(64), 32, -1)
    first_read = rows * stride + 1 if stride == 1 else rows * stride  # by the second strip
    assert asked[:, first_read:].all()
    assert not asked[:, :first_read].any()


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine.lanes} lanes")
def test_the_rows_of_an_image(machine):
    window = Window((3, 3), (2, 2), (1, 1, 1, 1))
    conv = Conv(1, 3, 64, 64, 16, window, 32, 32)
    knobs = replace(dense_knobs(conv, machine, blocked=False), rows=8)
    kernel = dense_kernel(conv, NOTHING, machine, blocked=False, knobs=knobs)
    asked = asked_for(kernel, machine, "X").reshape(3, 64, -1)
    assert asked[:, 16:].all()
    assert not asked[:, :16].any()


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine.lanes} lanes")
def test_the_weights_of_the_next_chunk(machine):
    channels = 256
    conv = Conv(1, channels, 14, 14, 128, Window((1, 1)), 14, 14)
    knobs = replace(dense_knobs(conv, machine), splits=1, vectors=2)
    kernel = dense_kernel(conv, NOTHING, machine, knobs=knobs)
    asked = asked_for(kernel, machine, "W").reshape(machine.blocks(128), -1)
    chunks = -(-(2 * 4 * machine.lanes * channels) // knobs.weight_bytes)
    first = machine.blocks(channels) // chunks * machine.lanes**2 // machine.line_elements
    assert asked[2:].all()
    assert asked[:, first:].all()
    assert not asked[:2, :first].any()


def test_nothing_that_is_near_anyway():
    machine = MACHINES[0]
    conv = depthwise(32, 7, 1)  # one strip, and weights that the first level cache holds
    kernel = separable_kernel(conv, 1, 32, NOTHING, NOTHING, machine)
    assert "prefetch" not in kernel.script


@pytest.mark.parametrize(
    "machine", [*MACHINES, NARROW], ids=lambda machine: f"{machine.lanes} lanes"
)
def test_nothing_where_it_was_not_measured(machine):
    conv = depthwise(256, 32, 1)
    kernel = separable_kernel(conv, 1, 256, NOTHING, NOTHING, machine)
    assert ("prefetch" in kernel.script) == (machine is not NARROW)


@pytest.mark.parametrize(
    "machine", [*MACHINES, NARROW], ids=lambda machine: f"{machine.lanes} lanes"
)
def test_accumulators_are_registers(machine):
    require_tvm()
    import tvm

    from sepify.compiling import tvm_api

    conv = Conv(1, 64, 14, 14, 64, Window((1, 1)), 14, 14)
    kernel = dense_kernel(conv, NOTHING, machine)
    target = tvm_api.make_target({"kind": "llvm", "mcpu": tvm_api.host_cpu()})
    function = tvm_api.parse_kernel(kernel).with_attr("global_symbol", kernel.name)
    built = tvm.compile(tvm.IRModule({kernel.name: function}), target=target)
    assert "TVMBackendAllocWorkspace" not in built.mod.inspect_source("s")
