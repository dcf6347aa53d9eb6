"""Vectors of any size and elements of any type: found, cut and compiled as the table says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from compiling.kernel_runner import assert_close, block, run_kernel, unblock
from torch.nn import functional as F

from sepify.compiling.dependencies import require_tvm
from sepify.compiling.kernels.dense import dense_kernel, dense_knobs
from sepify.compiling.kernels.depthwise import depthwise_kernel, plane_knobs
from sepify.compiling.kernels.elements import ELEMENTS, FLOAT16, FLOAT32
from sepify.compiling.kernels.instruction_sets import (
    AVX2,
    AVX512,
    AVX512_AMD,
    BASELINE,
    INSTRUCTION_SETS,
    NEON_V7,
    NEON_V8,
    instruction_set,
    measured_tiles,
)
from sepify.compiling.kernels.machine import Dot, Machine
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.source import LOCAL_BYTES, Kernel, Source
from sepify.compiling.kernels.weights import pack_bias, pack_dense, pack_depthwise
from sepify.storage import decode

AVX2_FEATURES = {"sse2", "avx2", "fma"}
AVX512_FEATURES = {*AVX2_FEATURES, "avx512f", "avx512vl"}
MACHINES = [Machine(4, 16), Machine(4, 32), Machine(8, 16), Machine(16, 32), Machine(32, 32)]


def of_lanes(machine: Machine) -> str:
    return f"{machine.lanes} lanes, {machine.registers} registers"


@pytest.mark.parametrize(
    ("architecture", "cpu", "features", "found"),
    [
        ("x86_64", "znver4", AVX512_FEATURES, AVX512_AMD),
        ("x86_64", "skylake-avx512", AVX512_FEATURES, AVX512),
        ("x86_64", "znver3", AVX2_FEATURES, AVX2),
        ("x86_64", "knl", {*AVX2_FEATURES, "avx512f"}, AVX2),
        ("x86_64", "sandybridge", {"avx"}, BASELINE),
        ("aarch64", "cortex-a72", {"neon"}, NEON_V8),
        ("armv7", "cortex-a7", {"neon", "vfp4"}, NEON_V7),
        ("riscv64", "generic", set(), BASELINE),
    ],
)
def test_a_cpu_gets_its_largest_vectors(architecture, cpu, features, found):
    assert instruction_set(architecture, cpu, features) is found


@pytest.mark.parametrize("vectors", INSTRUCTION_SETS, ids=lambda vectors: vectors.name)
def test_a_machine_has_the_vectors_of_its_row(vectors):
    machine = vectors.machine()
    assert machine.vector_bytes == vectors.vector_bytes
    assert measured_tiles(machine) == vectors.tiles
    halves = vectors.machine(element=FLOAT16)
    assert halves.lanes == 2 * machine.lanes
    assert measured_tiles(halves) == vectors.tiles
    assert sent(halves) == halves
    assert machine.dot is None
    for dot in vectors.dots:
        assert sent(vectors.machine(dot.features)).dot == dot


def sent(machine: Machine) -> Machine:
    """As a worker reads it."""
    return decode(Machine, json.loads(json.dumps(asdict(machine))), "machine")


def test_the_table_of_elements_is_right():
    for name, element in ELEMENTS.items():
        assert (element.name, element.bytes) == (name, np.dtype(name).itemsize)
    assert FLOAT32.unit == 2.0**-24
    assert float(FLOAT32.lowest.removeprefix("T.float32(")[:-1]) == torch.finfo(torch.float32).min


def compiled(kernel: Kernel, description: dict[str, str]) -> str:
    """The machine code, as assembly."""
    require_tvm()
    import tvm

    from sepify.compiling import tvm_api

    function = tvm_api.parse_kernel(kernel).with_attr("global_symbol", kernel.name)
    target = tvm_api.make_target(description)
    return str(tvm.tirx.build(tvm.IRModule({kernel.name: function}), target).inspect_source("s"))


@pytest.mark.parametrize(
    ("vectors", "description", "mnemonic"),
    [
        (AVX512, {"kind": "llvm", "mcpu": "cascadelake"}, "vpdpbusd"),
        (
            NEON_V8,
            {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"},
            "sdot",
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_dot_instruction_is_the_one_that_the_cpu_has(vectors, description, mnemonic):
    (dot,) = vectors.dots
    assert vectors.machine(dot.features).dot == dot
    assert mnemonic in compiled(dot_kernel(dot, vectors.vector_bytes), description)


def dot_kernel(dot: Dot, vector_bytes: int) -> Kernel:
    """Y = C + the products of A and B, one instruction."""
    lanes = vector_bytes // dot.sums.bytes
    machine = Machine(lanes, 32, element=dot.sums)
    wide, sums = f"T.Ramp(0, 1, {lanes * dot.group})", f"T.Ramp(0, 1, {lanes})"
    source = Source(dot.sums)
    call = dot.call(lanes, f"C[{sums}]", f"A[{wide}]", f"B[{wide}]")
    source.line(f"Y[{sums}] = {call}")
    left = replace(machine, element=dot.left).buffer("A", (lanes * dot.group,))
    right = replace(machine, element=dot.right).buffer("B", (lanes * dot.group,))
    return source.kernel("dot", [left, right, machine.buffer("C", (lanes,))], (lanes,))


@pytest.mark.parametrize("machine", MACHINES, ids=of_lanes)
def test_what_is_meant_for_registers_is_not_put_into_memory(machine):
    """Also not by vectors that are longer than a register, which LLVM cuts."""
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    dense = Conv(1, 64, 14, 14, 64, window, 14, 14)
    planes = Conv(1, 64, 14, 14, 64, window, 14, 14, 64)
    assert dense_knobs(dense, machine).pixels * machine.vector_bytes < LOCAL_BYTES
    assert plane_knobs(planes, machine).row_tile * machine.vector_bytes < LOCAL_BYTES
    for kernel in (
        dense_kernel(replace(dense, window=Window((1, 1))), Epilogue(), machine),
        depthwise_kernel(planes, Epilogue(), machine),
    ):
        code = compiled(kernel, {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"})
        assert "TVMBackendAllocWorkspace" not in code


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
def test_kernels_compute_in_the_elements_of_the_machine(lanes):
    """In float16, as well as float16 can."""
    machine = Machine(lanes, 32, element=FLOAT16)
    conv = Conv(1, 20, 9, 9, 40, Window((3, 3), (1, 1), (1, 1, 1, 1)), 9, 9)
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, 20, 9, 9, generator=random).half().float()
    weight = torch.randn(40, 20, 3, 3, generator=random).half().float() / 8
    bias = torch.randn(40, generator=random).half().float()
    epilogue = Epilogue(clip=(0.0, 6.0))
    packed = [pack_dense(weight.numpy(), lanes), pack_bias(bias.numpy(), lanes)]
    kernel = dense_kernel(conv, epilogue, machine)
    assert {buffer.element for buffer in (*kernel.inputs, kernel.output)} == {FLOAT16}
    have = unblock(run_kernel(kernel, block(x, lanes), *packed), 40)
    growth = FLOAT16.unit / FLOAT32.unit
    assert_close(have.float(), F.conv2d(x, weight, bias, padding=1).clamp(0, 6), 180, growth)

    planes = replace(conv, outputs=20, groups=20)
    filters = weight[:20, :1]
    packed = [pack_depthwise(filters.numpy(), 1, lanes)[0], pack_bias(bias[:20].numpy(), lanes)]
    have = unblock(
        run_kernel(depthwise_kernel(planes, epilogue, machine), block(x, lanes), *packed), 20
    )
    want = F.conv2d(x, filters, bias[:20], padding=1, groups=20).clamp(0, 6)
    assert_close(have.float(), want, 9, growth)
