"""Legal but unusual files are read; what is damaged, or too much, is one sentence."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from nets import Plain, images, seeded
from PIL import Image

import sepify
from sepify.cli.streams import checked_streams
from sepify.compiling.kernel_tuning.records import FILE_NAME, Records
from sepify.compiling.targets import read_target
from sepify.errors import DatabaseWarning, FileError, InputError, UsageError
from sepify.formats.input_note import InputNote, read_note
from sepify.formats.loaded import random_inputs
from sepify.images import read_images, read_labelled, read_preparation
from sepify.jobs.merge import merge_databases
from sepify.process.memory import free_memory, require_memory
from sepify.storage import parse_json, parse_lines, read_json
from sepify.storage.arrays import read_array
from sepify.storage.pictures import read_picture


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f2", "g", ">i2", "u1", "<u2", ">u8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_byte_order_and_width(kind, order, tmp_path):
    given = (np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5) % 100).astype(kind, order=order)
    np.save(tmp_path / "x.npy", given)
    read = read_array(tmp_path / "x.npy")
    assert np.array_equal(read, given)
    if read.dtype.kind == "f":  # others are pixels that nobody prepared
        images = read_images(tmp_path / "x.npy")
        assert torch.equal(images, torch.from_numpy(given.astype(np.float32)))


def test_words_as_labels_are_numbered_as_folders_are(tmp_path):
    words = {
        "text": list("badb"),
        "bytes": [b"b", b"a", b"d", b"b"],
        "numbers": ["7", "3", "9", "7"],
    }
    for name, labels in words.items():
        np.savez(tmp_path / "x.npz", images=images(4).numpy(), labels=np.array(labels))
        found = read_labelled(tmp_path / "x.npz")[1].tolist()
        assert found == ([7, 3, 9, 7] if name == "numbers" else [1, 0, 2, 1])


def header(shape: str) -> bytes:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % shape.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "shape", ["(10**9, 3)", "(1000000000, 3)", "(-1,)", "(True,)", "((((", "(2,"]
)
def test_a_header_that_promises_what_is_not_there(shape, tmp_path):
    (tmp_path / "x.npy").write_bytes(header(shape))
    with pytest.raises(FileError, match=r"x\.npy is damaged, or not an \.npy file"):
        read_array(tmp_path / "x.npy")


def test_what_needs_more_memory_than_there_is_is_refused_before(tmp_path):
    assert free_memory() > 2**20
    require_memory(2**20, "a little")
    with pytest.raises(InputError, match="input of shape .* needs .* GiB of memory"):
        random_inputs(InputNote(((2**40, 3, 12, 12),), ("float32",)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is not a number of JSON at line 1, column 7"),
        ('["NaN",\n -Infinity]', "-Infinity is not a number of JSON at line 2, column 2"),
        ("[1e400]", "1e400 is too large at line 1, column 2"),
        ("[%s]" % ("1" * 5000), "is too large at line 1"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[" * 100_000, "nested too deep"),
        (r'["\ud800"]', "not JSON"),
        ("", "line 1, column 1"),
    ],
)
def test_json_that_is_not(text, said):
    with pytest.raises(FileError, match="x.json") as raised:
        parse_json(text, "x.json")
    assert said in str(raised.value)


def test_json_with_a_byte_order_mark_and_large_numbers(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": [18446744073709551615, "\xc3\xa4"]}')
    assert read_json(tmp_path / "x.json") == {"a": [2**64 - 1, "ä"]}


def test_pictures_of_every_mode(tmp_path):
    grey = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "deep.png")), grey >> 8)
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    preparation = read_preparation("size=8x8")
    for mode, suffix in [
        ("P", "png"),
        ("LA", "png"),
        ("RGBA", "png"),
        ("1", "png"),
        ("CMYK", "jpg"),
    ]:
        colour.convert(mode).save(tmp_path / f"a.{suffix}")
        picture = read_picture(tmp_path / f"a.{suffix}")
        assert preparation.of_picture(picture, 3).shape == (3, 8, 8)
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(FileError, match="whose range nobody knows"):
        read_picture(tmp_path / "float.tiff")


def test_pictures_that_are_too_much_or_something_else(tmp_path, monkeypatch):
    (tmp_path / "bomb.ppm").write_bytes(b"P6 60000 60000 255\n")
    with pytest.raises(FileError, match="60000x60000 pixels|exceeds limit"):
        read_picture(tmp_path / "bomb.ppm")
    monkeypatch.setenv("PATH", str(tmp_path))  # Ghostscript would be started from there
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(FileError, match="not a picture"):
        read_picture(tmp_path / "x.png")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UsageError, match="1 to 32,768 pixels"):
        read_preparation("size=99999999")
    with pytest.raises(UsageError, match="at most"):
        read_preparation("size=30000").of_picture(Image.new("RGB", (4, 4000)), 3)


def test_a_pipe_among_pictures(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(FileError, match="named pipe"):
        read_images(tmp_path, shape=(1, 3, 4, 4))


def test_a_picture_outside_of_a_dataset_is_not_opened(tmp_path):
    datasets = pytest.importorskip("datasets")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    value = datasets.Value
    features = datasets.Features({"image": {"bytes": value("binary"), "path": value("string")}})
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}]
    datasets.Dataset.from_dict({"image": rows}, features=features).save_to_disk(tmp_path / "set")
    info = tmp_path / "set" / "dataset_info.json"
    document = json.loads(info.read_text())
    document["features"] = {"image": {"_type": "Image"}}
    info.write_text(json.dumps(document))
    with pytest.raises(FileError, match="names a picture outside of the dataset"):
        read_images(tmp_path / "set", shape=(1, 3, 4, 4))


def test_a_target_file_names_no_program_of_its_own(tmp_path):
    value = {"triple": "aarch64-linux-gnu", "cpu": "cortex-a55"}
    for change in ({"compiler": "./evil"}, {"compiler": "sh"}, {"name": "../x"}, {"features": [1]}):
        (tmp_path / "t.json").write_text(json.dumps({**value, **change}))
        with pytest.raises(UsageError, match=next(iter(change))):
            read_target(tmp_path / "t.json")
    (tmp_path / "t.json").write_text(json.dumps({**value, "compiler": "aarch64-linux-gnu-gcc-12"}))
    assert read_target(tmp_path / "t.json").compiler == "aarch64-linux-gnu-gcc-12"


def test_notes_that_are_none():
    for text in (
        b"\xff",
        "[" * 10_000,
        '{"input_shapes": [[1e400]]}',
        '{"input_shapes": [[true]]}',
    ):
        assert read_note(text) is None
    huge = json.dumps({"input_shapes": [[2**60]], "input_dtypes": ["float32"]})
    assert read_note(huge) is None


LINE = (
    '{"error": null, "knobs": {"pixels": 4, "row_tile": 8, "rows": 1, "splits": 1, "unroll": 16, '
    '"vectors": 2, "weight_bytes": 16384, "winograd": 0}, "relative": 0.5, "seconds": 1e-05, '
    '"target": {}, "versions": {"kernels": "4"}, "workload": {"kind": "dense"}}'
)
DAMAGED = (LINE[:60], LINE.replace("4,", '"4",', 1), LINE.replace("0.5", "NaN"), "[]", "\x00\x1b")


def test_damaged_lines_of_a_database_are_skipped_and_counted(tmp_path):
    source = tmp_path / "from"
    source.mkdir()
    (source / FILE_NAME).write_text("\n".join([LINE, *DAMAGED, LINE.replace("0.5", "0.6")]) + "\n")
    records = Records(source, {}, {})
    assert records.damaged == [2, 3, 4, 5, 6]
    with pytest.warns(DatabaseWarning, match=r"kernels\.jsonl: 4 damaged line\(s\) skipped"):
        added = merge_databases([source], tmp_path / "to")
    assert added["kernels"] == 3  # whole JSON is kept, of whatever version it is
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge_databases([tmp_path / "to"], tmp_path / "again")


def test_lines_by_their_numbers():
    seen = []
    assert parse_lines(["1", "", "x", "3"], lambda value, _: seen.append(value)) == [3]
    assert seen == [1, 3]


def test_the_users_own_code_is_named():
    model, x = seeded(Plain()), images()

    def filter_fn(_module, name):
        raise LookupError(f"no {name}")

    def progress(_what, _done, _total):
        raise RuntimeError("enough")

    def batches():
        yield images(8)
        raise OSError("disk gone")

    with pytest.raises(UsageError, match="keep, asked about .* failed: LookupError: no"):
        sepify.convert(model, example_inputs=x, solver=sepify.Solver(method="svd"), keep=filter_fn)
    with pytest.raises(UsageError, match="progress callback failed: RuntimeError: enough"):
        sepify.convert(
            model, calibration=images(16), solver=sepify.Solver(refine=False), progress=progress
        )
    with pytest.raises(InputError, match="calibration data failed: OSError: disk gone"):
        sepify.convert(model, example_inputs=x, calibration=batches())


PRINTS = """
import sys
from sepify.cli.streams import checked_streams
from sepify.errors import FileError
try:
    with checked_streams():
        print("x" * 100_000)
except FileError as error:
    sys.stderr.write(str(error))
    sys.exit(1)
"""


@pytest.mark.parametrize(
    ("where", "said"),
    [("/dev/full", "no space left on device"), (None, "it is closed"), ("pipe", "broken pipe")],
)
def test_an_output_that_takes_no_more_is_one_sentence(where, said):
    options = {"stdout": subprocess.DEVNULL}
    if where == "pipe":
        reader, options["stdout"] = os.pipe()
        os.close(reader)
    elif where is None:
        options = {"preexec_fn": lambda: os.close(1)}
    else:
        options["stdout"] = open(where, "wb")  # noqa: SIM115
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], stderr=subprocess.PIPE, text=True, check=False, **options
    )
    assert (done.returncode, done.stderr) == (1, f"cannot write to stdout: {said}")


def test_streams_that_work_are_left_alone(capsys):
    with checked_streams():
        print("hello")
    assert capsys.readouterr().out == "hello\n"
