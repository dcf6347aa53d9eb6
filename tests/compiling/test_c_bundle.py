"""C bundles for this processor, built with the system's C compiler: no emulator needed."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from sepify.cli import main
from sepify.compiling import make_bundle
from sepify.compiling.bundle import make
from sepify.compiling.bundle.c_bundle import build_example
from sepify.compiling.bundle.checksums import check_checksums
from sepify.compiling.bundle.program import Call, Program, Tensor
from sepify.compiling.targets import host_architecture
from sepify.errors import CompileError, FileError, UsageError

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler"),
    pytest.mark.skipif(host_architecture() != "x86_64", reason="its presets are x86"),
]


class TwoInTwoOut(nn.Module):
    """Own kernels, TVM's plain ones (softmax), a reshape, an input that is an output."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 20, 3, 1, 1)
        self.depthwise = nn.Conv2d(20, 20, 3, 1, 1, groups=20)
        self.pointwise = nn.Conv2d(20, 32, 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x, y):
        x = torch.relu(self.conv(x) + y)
        x = self.pointwise(torch.relu(self.depthwise(x)))
        return self.head(x.mean((2, 3))), x.softmax(1), x.reshape(1, -1), y


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return TwoInTwoOut().eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    shapes = ((1, 3, 12, 12), (1, 1, 12, 12))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@pytest.fixture(scope="module")
def made(network, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("c") / "bundle"
    return make_bundle(network, inputs, "native", folder, kind="c", name="two")


@pytest.fixture
def bundle(made, tmp_path):
    return shutil.copytree(made.path, tmp_path / "bundle")


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True)


def test_it_was_tested_before_it_was_kept(made):
    assert made.tested.where == "on this CPU"
    assert "passed" in made.tested.words
    assert made.memory["weights"] > 0
    assert 0 < made.memory["peak"] <= made.memory["arena"]
    assert "self-test on this CPU" in made.summary


@pytest.mark.parametrize("threads", [1, 3])
def test_other_inputs_give_what_torch_gives(network, bundle, tmp_path, threads):
    build_example("cc", bundle, tmp_path / "example", threads)
    x = (torch.randn(1, 3, 12, 12), torch.randn(1, 1, 12, 12))
    paths = [tmp_path / name for name in ("x", "y", "a", "b", "c", "d")]
    for path, tensor in zip(paths, x, strict=False):
        path.write_bytes(tensor.numpy().tobytes())
    assert run(tmp_path / "example", *paths).returncode == 0
    with torch.no_grad():
        expected = network(*x)
    for path, want in zip(paths[2:], expected, strict=True):
        have = np.fromfile(path, np.float32).reshape(want.shape)
        np.testing.assert_allclose(have, want.numpy(), rtol=1e-4, atol=1e-5)


def test_nothing_is_allocated_while_it_runs(bundle, tmp_path):
    """malloc that aborts from the first run on."""
    (bundle / "main.c").write_text(
        """
        #include "example.h"
        #include <stdlib.h>
        static unsigned char arena[EXAMPLE_ARENA_BYTES(2)] __attribute__((aligned(64)));
        static int running;
        void *__real_malloc(size_t);
        void *__wrap_malloc(size_t n) { if (running) abort(); return __real_malloc(n); }
        void *__wrap_calloc(size_t n, size_t m) { return __wrap_malloc(n * m); }
        void *__wrap_aligned_alloc(size_t a, size_t n) { (void)a; return __wrap_malloc(n); }
        int main(void) {
          if (EXAMPLE_INIT(arena, 2)) return 1;
          running = 1;
          for (int i = 0; i < 50; ++i) if (EXAMPLE_RUN()) return 2;
          return 0;
        }"""
    )
    sources = [*bundle.glob("*.c"), *bundle.glob("*.S"), *bundle.glob("*.o")]
    wrap = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "aligned_alloc")]
    flags = ["-std=gnu11", "-DSEPIFY_THREADS", "-pthread", f"-I{bundle}", *wrap]
    done = run("cc", *flags, *sources, "-lm", "-o", tmp_path / "program")
    assert done.returncode == 0, done.stderr
    assert run(tmp_path / "program").returncode == 0


def test_two_networks_in_one_program(bundle, tmp_path):
    other = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()).eval()
    x = torch.randn(1, 1, 9, 9)
    second = make_bundle(other, x, "native", tmp_path / "second", kind="c", name="small").path
    program = tmp_path / "both.c"
    program.write_text(
        """
        #include "two.h"
        #include "small.h"
        static unsigned char a[TWO_ARENA_BYTES(1)] __attribute__((aligned(64)));
        static unsigned char b[SMALL_ARENA_BYTES(1)] __attribute__((aligned(64)));
        static float x[432], y[144], p[10], q[4608], r[4608], s[144], t[81], u[392];
        int main(void) {
          if (two_run(x, y, p, q, r, s) != -2) return 3;  /* not ready */
          if (two_init(a + 1, 1) != -5 || two_init(a, 0) != -3) return 4;
          if (two_init(a, 1) || small_init(b, 1)) return 1;
          return two_run(x, y, p, q, r, s) || small_run(t, u) || two_run(x, y, p, q, r, s);
        }"""
    )
    shared = [bundle / f"sepify_{part}.c" for part in ("cpu", "program", "threads")]
    sources = [bundle / "two.c", bundle / "two_weights.S", *bundle.glob("*.o")]
    sources += [second / "small.c", second / "small_weights.S", *second.glob("*.o")]
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{bundle}", f"-I{second}"]
    done = run("cc", *flags, program, *shared, *sources, "-lm", "-o", tmp_path / "both")
    assert done.returncode == 0, done.stderr
    assert run(tmp_path / "both").returncode == 0


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs CMake")
def test_cmake_builds_and_tests_it_and_names_a_damaged_file(bundle, tmp_path):
    place = tmp_path / "build"
    assert run("cmake", "-DTHREADS=2", "-S", bundle, "-B", place).returncode == 0
    assert run("cmake", "--build", place).returncode == 0
    tested = run("ctest", "--test-dir", place)
    assert tested.returncode == 0, tested.stdout
    weights = bytearray((bundle / "two_weights.bin").read_bytes())
    weights[100] ^= 1
    (bundle / "two_weights.bin").write_bytes(weights)
    refused = run("cmake", "-S", bundle, "-B", place)
    assert refused.returncode != 0
    assert "two_weights.bin is damaged" in refused.stderr.replace("\n", " ")


def test_model_json_says_what_goes_in_and_out(bundle):
    facts = json.loads((bundle / "model.json").read_text())
    assert [i["shape"] for i in facts["inputs"]] == [[1, 3, 12, 12], [1, 1, 12, 12]]
    assert [o["dtype"] for o in facts["outputs"]] == ["float32"] * 4
    assert facts["versions"]["torch"] == torch.__version__
    assert set(facts["files"]) | {"model.json", "SHA256SUMS"} == {p.name for p in bundle.iterdir()}
    assert facts["preprocessing"].startswith("none")


def test_every_flipped_byte_is_named(bundle):
    check_checksums(bundle)
    for path in sorted(bundle.iterdir()):
        original = path.read_bytes()
        changed = bytearray(original)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(FileError, match="damaged|missing"):
            check_checksums(bundle)
        path.write_bytes(original)
    (bundle / "main.c").unlink()
    with pytest.raises(FileError, match="main.c is missing"):
        check_checksums(bundle)


def test_a_cpu_without_the_instructions_is_refused_in_words(bundle, tmp_path):
    source = (bundle / "two.c").read_text()
    (bundle / "two.c").write_text(source.replace("features[] = {", 'features[] = {"sse99", ', 1))
    build_example("cc", bundle, tmp_path / "example")
    done = run(tmp_path / "example", "--self-test")
    assert done.returncode == 1
    assert "this CPU lacks instructions" in done.stderr


def test_a_self_test_that_fails_leaves_no_bundle(network, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "TOLERANCE", 0.0)
    with pytest.raises(CompileError, match="the self-test on this CPU failed"):
        make_bundle(network, inputs, "native", tmp_path / "bundle", kind="c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["capturing", "building", "checking"])
@pytest.mark.parametrize("kind", ["c", "runtime"])
def test_an_interruption_leaves_nothing(network, inputs, tmp_path, moment, kind):
    def interrupt(what, _done, _total):
        if what == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_bundle(network, inputs, "native", tmp_path / "b", kind=kind, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Two", "2d", "a-b", "", "x" * 40])
def test_names_that_c_does_not_take(network, inputs, tmp_path, name):
    with pytest.raises(UsageError, match="C identifier"):
        make_bundle(network, inputs, "native", tmp_path / "b", kind="c", name=name)


def test_unknown_kind_and_tuning_without_a_board(network, inputs, tmp_path):
    with pytest.raises(UsageError, match="choose runtime or c"):
        make_bundle(network, inputs, "native", tmp_path / "b", kind="zip")
    with pytest.raises(UsageError, match="needs a board"):
        make_bundle(network, inputs, "raspberry-pi-4", tmp_path / "b", kind="c", tune=8)


def test_a_bundle_for_another_system_is_not_run_here(network, inputs, tmp_path):
    made = make_bundle(network, inputs, "apple-m1", tmp_path / "b", kind="c")
    assert made.tested is None
    assert "not run here" in made.summary
    assert (tmp_path / "b" / "network_kernels0.o").read_bytes()[:4] == b"\xcf\xfa\xed\xfe"  # Mach-O


def test_peak_counts_what_is_live_at_one_time():
    tensors = tuple(Tensor(False, offset, (16,), "float32") for offset in (0, 64, 0, 64))
    weight = Tensor(True, 0, (1000,), "float32")
    calls = (Call("a", (0, 4, 1)), Call("b", (1, 2)), Call("c", (2, 3)))
    program = Program((*tensors, weight), calls, (0,), (3,), b"", 128, 0)
    assert program.peak == 128


def test_at_a_shell(tmp_path, monkeypatch, capsys):
    model = torch.jit.trace(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU()), torch.zeros(1, 1, 9, 9))
    torch.jit.save(model, tmp_path / "m.pt")
    board = tmp_path / "board.json"
    board.write_text(json.dumps({"triple": "x86_64-linux-gnu", "cpu": "x86-64-v2", "lanes": 4}))
    argv = ["sepify", "compile", str(tmp_path / "m.pt"), "--input-shape", "1,1,9,9"]
    argv += ["--target-json", str(board), "--bundle", "c", "--name", "digits"]
    argv += ["-o", str(tmp_path / "out"), "--preprocessing", "grey, 0 to 1"]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "self-test on this CPU" in capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "model.json").read_text())
    assert (facts["target"], facts["preprocessing"]) == ("board", "grey, 0 to 1")
    assert "int digits_run(" in (tmp_path / "out" / "digits.h").read_text()
