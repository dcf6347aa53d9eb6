"""Bundles for boards, run on boards played by qemu-user."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import torch
from torch import nn

from device.emulator import emulate, outputs_of
from device.networks import NETWORKS, demo
from sepify.compiling import make_bundle
from sepify.compiling.bundle.c_bundle import build_example

COMPILERS = {"raspberry-pi-2": "arm-linux-gnueabihf-gcc", "raspberry-pi-4": "aarch64-linux-gnu-gcc"}


@pytest.fixture(scope="module")
def networks():
    made = {}
    for name, make in NETWORKS.items():
        torch.manual_seed(0)
        model, x = make()
        made[name] = (model.eval(), x)
    return made


def relative_error(have, want):
    return float((have - want).abs().max() / want.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("kind", "target"),
    [("runtime", "raspberry-pi-4"), ("c", "raspberry-pi-4"), ("c", "raspberry-pi-2")],
)
def test_outputs_are_torchs_on_an_input_that_is_not_stored(networks, tmp_path, name, kind, target):
    model, x = networks[name]
    made = make_bundle(model, x, target, tmp_path / "bundle", kind=kind)
    assert made.tested.where.startswith("under qemu")
    assert float(re.search(r"error (\S+),", made.tested.words)[1]) < 1e-5
    other = x.flip(3) * 0.7
    with torch.no_grad():
        expected = model(other)
    program = made.path / "run"
    if kind == "c":
        program = tmp_path / "example"
        build_example(COMPILERS[target], made.path, program, threads=2)
    have = outputs_of(target, program, other, expected, tmp_path)
    assert relative_error(have, expected) < 1e-5
    assert "passed" in emulate(target, program, "--self-test").stdout


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    return model, torch.randn(1, 3, 9, 9)


@pytest.mark.parametrize("kind", ["runtime", "c"])
def test_a_wrong_cpu_is_refused_in_words_not_by_a_signal(small, tmp_path, kind):
    made = make_bundle(*small, "raspberry-pi-5", tmp_path / "bundle", kind=kind)
    program = made.path / "run"
    if kind == "c":
        program = tmp_path / "example"
        build_example("aarch64-linux-gnu-gcc", made.path, program)
    assert emulate("raspberry-pi-5", program, "--self-test").returncode == 0
    done = emulate("raspberry-pi-5", program, "--self-test", cpu="cortex-a72")
    assert done.returncode == 1
    assert "this CPU lacks" in done.stderr


def test_a_wrong_32_bit_cpu_is_refused_too(small, tmp_path):
    made = make_bundle(*small, "raspberry-pi-2", tmp_path / "bundle", kind="c")
    build_example("arm-linux-gnueabihf-gcc", made.path, tmp_path / "example")
    done = emulate("raspberry-pi-2", tmp_path / "example", "--self-test", cpu="cortex-a9")
    assert done.returncode == 1  # no VFPv4
    assert "this CPU lacks" in done.stderr


def test_a_flipped_byte_is_named_on_the_board(small, tmp_path):
    bundle = make_bundle(*small, "raspberry-pi-4", tmp_path / "bundle").path
    library = bytearray((bundle / "module.so").read_bytes())
    library[len(library) // 3] ^= 4
    (bundle / "module.so").write_bytes(library)
    done = emulate("raspberry-pi-4", bundle / "run", "--self-test")
    assert done.returncode == 1
    assert "module.so is damaged, its checksum differs" in done.stderr


def test_vectors_longer_than_neons_change_nothing(small, tmp_path):
    """A Graviton3 has SVE of 256 bits, which TVM 0.27 compiled wrong code for."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.Softmax(1)).eval()
    made = make_bundle(model, torch.randn(1, 3, 9, 9), "graviton3", tmp_path / "b", kind="c")
    build_example("aarch64-linux-gnu-gcc", made.path, tmp_path / "example")
    cpu = "max,sve-default-vector-length=32"
    assert emulate("raspberry-pi-5", tmp_path / "example", "--self-test", cpu=cpu).returncode == 0


def test_sizes_of_the_demo(tmp_path):
    """2.2 MB with TVM's runtime, packed; 0.9 MB and the weights without, linked statically."""
    model, x = demo()
    packed = make_bundle(model, x, "raspberry-pi-4", tmp_path / "demo.tar.xz")
    assert packed.packed < 2.2e6
    made = make_bundle(model, x, "raspberry-pi-4", tmp_path / "c", kind="c")
    assert made.total - made.memory["weights"] < 0.9e6
    build_example("aarch64-linux-gnu-gcc", made.path, tmp_path / "example")
    assert (tmp_path / "example").stat().st_size - made.memory["weights"] < 0.9e6


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-readelf") is None, reason="needs binutils")
def test_programs_start_on_glibc_2_28(small, tmp_path):
    bundle = make_bundle(*small, "raspberry-pi-4", tmp_path / "bundle").path
    for name in ("run", "libsepify_model.so", "module.so", "libtvm_runtime.so", "libtvm_ffi.so"):
        told = subprocess.run(
            ["aarch64-linux-gnu-readelf", "-VW", str(bundle / name)], capture_output=True, text=True
        )
        versions = [int(n) for n in re.findall(r"GLIBC_2\.(\d+)", told.stdout)]
        assert max(versions, default=0) <= 28, name
