"""sepify quantize."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from nets import images
from shells import files

from sepify.formats.load import load_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_file_becomes_a_quantised_file(shell):
    np.save("x.npy", images(96).numpy())
    done = shell(
        *("quantize", "model.pt", "-o", "q.pt2", "--calibration", "x.npy", "--weights", "4"),
        *("--keep", "head"),
    )
    assert done.code == 0, done.err
    assert "2 of 3 layers quantised (2 in int8)" in done.out  # the first and the last of them
    assert "float32: head: asked to keep 'head'" in done.out
    assert "fidelity to the given network on 12 held-out images" in done.out
    given, made = load_model("model.pt").module, load_model("q.pt2").module
    wanted = given(images(4))
    assert (made(images(4)) - wanted).abs().max() < 0.1 * wanted.abs().max()
    assert sum(b.dtype == torch.int8 for b in made.buffers()) == 2


def test_json_names_every_layer(shell):
    np.save("x.npy", images(96).numpy())
    facts = json.loads(
        shell("quantize", "model.pt", "-o", "q.pt2", "--calibration", "x.npy", "--json").out
    )
    assert [layer["precision"] for layer in facts["layers"]] == ["int8"] * 3
    assert all(layer["error"] < 0.01 for layer in facts["layers"])
    again = shell("quantize", "q.pt2", "-o", "again.pt2", "--calibration", "x.npy")
    assert again.code == 2
    assert "quantised already" in again.err


@pytest.mark.parametrize(
    ("options", "code", "wrong"),
    [
        (("-o", "q.pt2", "--weights", "3"), 2, "weights of 3 bits are not supported: give 8 or 4"),
        (("-o", "q.onnx"), 2, "written as .pt2, not as '.onnx'"),
        (("-o", "q.pt2", "--keep", "absent"), 1, "matches no layer"),
    ],
)
def test_refusals_leave_no_file(shell, options, code, wrong):
    np.save("x.npy", images(96).numpy())
    done = shell("quantize", "model.pt", "--calibration", "x.npy", *options)
    assert done.code == code
    assert wrong in " ".join(done.err.split())
    assert not files() & {"q.pt2", "q.onnx"}


def test_too_few_images_are_refused(shell):
    np.save("few.npy", images(4).numpy())
    done = shell("quantize", "model.pt", "-o", "q.pt2", "--calibration", "few.npy")
    assert done.code == 1
    assert "4 calibration image(s) are too few" in done.err
