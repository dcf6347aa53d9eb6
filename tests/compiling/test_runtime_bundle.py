"""Bundles with TVM's runtime, for this processor: the runner, the Python loader, their refusals."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from torch import nn

from sepify.compiling import make_bundle
from sepify.compiling.bundle import runtime_libraries
from sepify.compiling.targets import find_target
from sepify.errors import CompileError, DependencyError, InputError

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


class TwoInTwoOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, 1, 1)
        self.depthwise = nn.Conv2d(20, 20, 3, 1, 1, groups=20)
        self.pointwise = nn.Conv2d(20, 32, 1)

    def forward(self, x, y):
        x = self.pointwise(self.depthwise(torch.relu(self.conv(x) + y)))
        return x.mean((2, 3)), x.softmax(1)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return TwoInTwoOut().eval()


@pytest.fixture(scope="module")
def made(network, tmp_path_factory):
    inputs = torch.randn(1, 3, 12, 12), torch.randn(1, 1, 12, 12)
    folder = tmp_path_factory.mktemp("runtime") / "bundle"
    return make_bundle(network, inputs, "native", folder)


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made.path, tmp_path / "bundle")


def run(*command, **options):
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, **options
    )


def test_it_was_tested_before_it_was_kept_and_sizes_are_told(made):
    assert made.tested.where == "on this CPU"
    assert made.memory["libtvm_runtime.so"] > 1e6
    assert "module.so" in made.summary


def test_the_runner_gives_what_torch_gives(network, bundle, tmp_path):
    x = torch.randn(1, 3, 12, 12), torch.randn(1, 1, 12, 12)
    paths = [tmp_path / name for name in "xyab"]
    for path, tensor in zip(paths, x, strict=False):
        path.write_bytes(tensor.numpy().tobytes())
    done = run(bundle / "run", "--threads", 2, *paths)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        expected = network(*x)
    for path, want in zip(paths[2:], expected, strict=True):
        have = np.fromfile(path, np.float32).reshape(want.shape)
        np.testing.assert_allclose(have, want.numpy(), rtol=1e-4, atol=1e-5)


def test_the_python_loader_gives_what_torch_gives(network, bundle, tmp_path):
    """In a process without torch or TVM, from another folder."""
    x = torch.randn(1, 3, 12, 12), torch.randn(1, 1, 12, 12)
    with torch.no_grad():
        expected = network(*x)
    np.savez(tmp_path / "x.npz", *(t.numpy() for t in x))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import numpy as np; from model import Model\n"
        "m = Model(); x = list(np.load('x.npz').values()); y = m(*x); y = m(*x)\n"
        "assert m.self_test() < 1e-5; np.savez('y.npz', *y)\n"
        "assert 'torch' not in sys.modules and 'tvm' not in sys.modules\n"
        "for bad in ([x[0]], [x[0], x[0]], [x[0], x[1].astype('float64')]):\n"
        "    try: m(*bad)\n"
        "    except ValueError as e: print(e)\n"
    )
    done = run(sys.executable, "-c", code, bundle, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 inputs; the network takes 2" in done.stdout
    assert done.stdout.count("input1 is ") == 2
    for have, want in zip(np.load(tmp_path / "y.npz").values(), expected, strict=True):
        np.testing.assert_allclose(have, want.numpy(), rtol=1e-4, atol=1e-5)
    assert "passed" in run(sys.executable, bundle / "model.py").stdout


def test_wrong_usage_and_wrong_inputs(bundle, tmp_path):
    assert run(bundle / "run").returncode == 2
    assert run(bundle / "run", "--threads", 0, "--self-test").returncode == 2
    (tmp_path / "short").write_bytes(b"1234")
    done = run(bundle / "run", *[tmp_path / "short"] * 4)
    assert done.returncode == 1
    assert "bytes are wanted, not less" in done.stderr


def test_time_on_the_device_is_told(bundle):
    assert re.search(
        r"5 runs: least [\d.]+ ms, median [\d.]+ ms", run(bundle / "run", "--time", 5).stdout
    )


@pytest.mark.parametrize(
    "name",
    [
        *("module.so", "libtvm_runtime.so", "libtvm_ffi.so", "libsepify_model.so", "output0.bin"),
        *("model.json", "model.py", "input1.bin"),
    ],
)
def test_a_flipped_byte_is_named_before_anything_is_loaded(bundle, name):
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    done = run(bundle / "run", "--self-test")
    assert done.returncode == 1
    assert f"{name} is damaged, its checksum differs" in done.stderr


def test_flipped_bytes_of_the_runner_and_the_list(bundle):
    runner = bytearray((bundle / "run").read_bytes())
    at = runner.index(b"self-test: largest")
    runner[at] ^= 1
    (bundle / "run").write_bytes(runner)
    assert "run is damaged" in run(bundle / "run", "--self-test").stderr
    sums = (bundle / "SHA256SUMS").read_text()
    for broken in (sums[1:], "", sums.replace("  ", " ", 1)):
        (bundle / "SHA256SUMS").write_text(broken)
        done = run(bundle / "run", "--self-test")
        assert done.returncode == 1
        assert "SHA256SUMS" in done.stderr


def test_a_missing_file_is_named(bundle):
    (bundle / "libtvm_ffi.so").unlink()
    done = run(bundle / "run", "--self-test")
    assert (done.returncode, "libtvm_ffi.so is missing" in done.stderr) == (1, True)
    done = run(sys.executable, bundle / "model.py")
    assert done.returncode == 1
    assert "libtvm_ffi.so is missing" in done.stderr


def test_another_output_fails_the_self_test(bundle):
    want = np.fromfile(bundle / "output0.bin", np.float32)
    (want * 1.01).tofile(bundle / "output0.bin")
    _sign_again(bundle)
    done = run(bundle / "run", "--self-test")
    assert done.returncode == 1
    assert "FAILED" in done.stdout


def _sign_again(bundle):
    from sepify.compiling.bundle.checksums import write_checksums

    write_checksums(bundle)


def test_sha256sum_itself_agrees(bundle):
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum")
    assert run("sha256sum", "-c", "SHA256SUMS", cwd=bundle).returncode == 0


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_programs_start_on_glibc_2_28(bundle):
    for name in ("run", "libsepify_model.so", "module.so", "libtvm_runtime.so", "libtvm_ffi.so"):
        versions = re.findall(r"GLIBC_2\.(\d+)", run("readelf", "-VW", bundle / name).stdout)
        assert versions or name == "module.so"
        assert max(map(int, versions), default=0) <= 28, name


def test_an_archive_unpacks_to_the_same(network, tmp_path):
    inputs = torch.randn(1, 3, 12, 12), torch.randn(1, 1, 12, 12)
    made = make_bundle(network, inputs, "native", tmp_path / "board.tar.xz")
    assert [p.name for p in tmp_path.iterdir()] == ["board.tar.xz"]
    assert made.packed < made.total / 2
    with tarfile.open(tmp_path / "board.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    assert run(tmp_path / "board" / "run", "--self-test").returncode == 0


def test_targets_without_a_runtime_are_told_of_the_other_bundle(network, tmp_path):
    inputs = torch.randn(1, 3, 12, 12), torch.randn(1, 1, 12, 12)
    for target in ("android-arm64", "apple-m1"):
        with pytest.raises((CompileError, DependencyError), match="--bundle c"):
            make_bundle(network, inputs, target, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_compiler_is_named_with_its_package(network, tmp_path, monkeypatch):
    inputs = torch.randn(1, 3, 12, 12), torch.randn(1, 1, 12, 12)
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(DependencyError, match="apt install gcc-aarch64-linux-gnu"):
        make_bundle(network, inputs, "raspberry-pi-4", tmp_path / "b")


def test_offline_the_download_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    other = "raspberry-pi-4" if find_target("native").architecture == "x86_64" else "x86-64-v3"
    with pytest.raises(DependencyError, match="go online once"):
        runtime_libraries.runtime_libraries(find_target(other))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_the_example_input_must_fit(network, tmp_path):
    with pytest.raises(InputError, match="does not run"):
        make_bundle(network, torch.zeros(1, 3, 12, 12), "native", tmp_path / "b")


def test_model_json(bundle):
    facts = json.loads((bundle / "model.json").read_text())
    assert facts["kind"] == "runtime"
    assert set(facts["files"]) >= {"run", "module.so", "libtvm_ffi.so", "output0.bin"}
    assert facts["outputs"][1] == {
        "name": "output1",
        "shape": [1, 32, 12, 12],
        "dtype": "float32",
        "stored": "output1.bin",
    }
