"""A disk that fills up while something is written: a sentence, the old file, and nothing else.

The limit on a file's size plays the disk. A process of its own, as a writer in C++ might abort it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIMITED = """
import os, resource, sys, warnings
from pathlib import Path

import torch

from sepify.errors import FileError

warnings.simplefilter("ignore")
place = Path(sys.argv[1])


def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def attempt(name, write):
    path = place / name
    write(path)
    whole = path.read_bytes()
    for size in (0, 1, 500, 5_000, len(whole) // 2, len(whole) - 1):
        limit(size)
        try:
            write(path)
        except FileError as error:
            assert f"cannot write {path}: file too large" in str(error), error
            assert "\\n" not in str(error)
        else:
            raise AssertionError(f"{name}: {size} bytes were enough")
        finally:
            limit(resource.RLIM_INFINITY)
        assert sorted(place.iterdir()) == [path], sorted(place.iterdir())
        assert path.read_bytes() == whole
    print("ok", name)
    path.unlink()
"""

WRITERS = """
from sepify.formats.input_note import METADATA_NAME, note_inputs
from sepify.formats.pt2_write import save_exported
from sepify.formats.torchscript_write import save_torchscript
from sepify.storage import write_bytes, write_json
from sepify.storage.tensors import save_state, save_weights

model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3)).eval()
x = torch.zeros(2, 3, 9, 9)
script, program = torch.jit.script(model), torch.export.export(model, (x,))
state = model.state_dict()
for name, write in {
    "model.pt": lambda path: save_torchscript(script, path, [(1, 3, 9, 9)]),
    "model.pt2": lambda path: save_exported(program, path, note_inputs((x,))),
    "model.safetensors": lambda path: save_weights(
        state, path, {METADATA_NAME: note_inputs((x,)).to_json()}
    ),
    "checkpoint": lambda path: save_state(state, path),
    "model.onnx": lambda path: write_bytes(path, bytes(20_000)),
    "plan.json": lambda path: write_json(path, ["x"] * 9_000),
}.items():
    attempt(name, write)
"""

COMPILED = """
import tempfile

from sepify.compiling import compile, make_bundle

model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU()).eval()
x = torch.zeros(1, 3, 9, 9)
kind = sys.argv[2]
work = Path(tempfile.mkdtemp(dir=place))
tempfile.tempdir = str(work)  # compiled code and the compiler's own files
os.environ["TMPDIR"] = str(work)
path = place / "out"
if kind == "saved":
    compiled = compile(model, x)
    write = lambda: compiled.save(path)
else:
    write = lambda: make_bundle(model, x, "native", path, kind=kind)
write()
sizes = {file.name: file.stat().st_size for file in path.iterdir()}
before = sorted(place.iterdir()), sorted(work.iterdir())  # torch keeps a folder there
code = "network_kernels0.o" if kind == "c" else "module.so"
for name in ("object", code, "all"):
    # 0.5 kB is too little for the code; the whole code for what comes after it
    limit({"object": 500, code: sizes[code] - 1, "all": max(sizes.values()) - 1}[name])
    try:
        write()
    except FileError as error:
        assert "cannot write " in str(error) and "file too large" in str(error), error
        assert "\\n" not in str(error) and ".sepify-" not in str(error), error
    else:
        raise AssertionError(f"{name}: there was room")
    finally:
        limit(resource.RLIM_INFINITY)
    after = sorted(place.iterdir()), sorted(work.iterdir())
    assert after == before, after
    assert sizes == {file.name: file.stat().st_size for file in path.iterdir()}
    print("ok", name)
"""


def run(program: str, place: Path, *more: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + program, str(place), *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()[1::2]


def test_every_kind_of_file(tmp_path: Path) -> None:
    written = run(WRITERS, tmp_path)
    assert len(written) == 6
    assert {"model.pt", "model.pt2"} <= set(written)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("kind", ["saved", "c", "runtime"])
def test_what_is_compiled(tmp_path: Path, kind: str) -> None:
    """LLVM and the C compiler write files of their own: one ended the process, the other told of an
    internal error."""
    assert len(run(COMPILED, tmp_path, kind)) == 3
