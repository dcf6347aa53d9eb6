"""Presets, and targets from a file."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sepify.compiling import compile, targets
from sepify.compiling.targets import find_target, read_target
from sepify.errors import CompileError, FileError, UsageError

ARM = {
    "raspberry-pi-2": ("armv7", "cortex-a7"),
    "raspberry-pi-3": ("aarch64", "cortex-a53"),
    "raspberry-pi-4": ("aarch64", "cortex-a72"),
    "raspberry-pi-5": ("aarch64", "cortex-a76"),
    "jetson-orin": ("aarch64", "cortex-a78ae"),
    "graviton2": ("aarch64", "neoverse-n1"),
    "graviton3": ("aarch64", "neoverse-v1"),
    "android-arm64": ("aarch64", "generic"),
    "apple-m1": ("aarch64", "apple-m1"),
    "aarch64": ("aarch64", "generic"),
    "armv7": ("armv7", "generic"),
}


@pytest.mark.parametrize("name", ARM)
def test_llvm_knows_every_arm_preset(name):
    from sepify.compiling import tvm_api

    target = find_target(name)
    architecture, cpu = ARM[name]
    assert (target.architecture, target.description["mcpu"]) == (architecture, cpu)
    assert target.machine.lanes == 4
    assert target.machine.registers == (16 if architecture == "armv7" else 32)
    assert "neon" in tvm_api.code_features(tvm_api.make_target(target.description))
    assert "sve" not in tvm_api.code_features(tvm_api.make_target(target.description))
    assert target.cores >= 4
    assert target.compiler


def test_presets_are_all_known_here():
    assert {t.name for t in targets()} == {*ARM, "native", "x86-64-v3", "x86-64-v4"}


def test_a_foreign_target_is_not_run_here():
    with pytest.raises(CompileError, match="make a bundle"):
        compile(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8), "android-arm64")


def write(path, **value):
    path.write_text(json.dumps(value))
    return path


def test_a_target_from_a_file(tmp_path):
    path = write(
        tmp_path / "board.json",
        triple="aarch64-linux-gnu",
        cpu="cortex-a55",
        features=["+dotprod"],
        cores=6,
    )
    target = find_target(read_target(path))
    assert (target.name, target.cores) == ("board", 6)
    assert target.machine.max_tasks == 12
    assert target.machine.dot is not None
    assert "dotprod" in target.machine.dot.features
    assert target.compiler == "aarch64-linux-gnu-gcc"
    assert target.description == {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "cortex-a55",
        "mattr": ["+dotprod", "-sve", "-sve2"],
    }


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"triple": "aarch64-linux-gnu"}, "cpu is missing"),
        ({"cpu": "cortex-a55"}, "triple is missing"),
        ({"triple": "aarch64-linux-gnu", "cpu": 55}, "cpu must be a str"),
        ({"triple": "aarch64-linux-gnu", "cpu": "generic", "cores": 0}, "must be 1 to 4096"),
        ({"triple": "aarch64-linux-gnu", "cpu": "generic", "core": 4}, "unknown key 'core'"),
        ({"triple": "aarch64-linux-gnu", "cpu": "generic", "lanes": 3}, "lanes must be"),
        ({"triple": "aarch64-linux-gnu", "cpu": "generic", "lanes": 64}, "lanes must be"),
        ({"triple": "aarch64-linux-gnu", "cpu": "generic", "registers": 8}, "registers must be"),
        ({"triple": "riscv64-linux-gnu", "cpu": "generic"}, "only x86-64, aarch64 and armv7"),
        ({"triple": "aarch64-linux-gnu", "cpu": "generic", "features": ["+sve"]}, "leave it out"),
        ([], "a target is a JSON object"),
    ],
)
def test_bad_target_files_are_refused(tmp_path, value, words):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UsageError, match=words):
        read_target(path)


def test_a_target_file_that_is_no_json_or_absent(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(FileError, match="not valid JSON"):
        read_target(tmp_path / "bad.json")
    with pytest.raises(FileError, match="no such file"):
        read_target(tmp_path / "absent.json")


def test_a_cpu_that_llvm_does_not_know_offers_the_nearest(tmp_path):
    path = write(tmp_path / "board.json", triple="aarch64-linux-gnu", cpu="cortex-a721")
    with pytest.raises(UsageError, match="no CPU 'cortex-a721'.*cortex-a72"):
        find_target(read_target(path))
