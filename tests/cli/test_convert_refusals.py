"""What `sepify convert` refuses: one line, the right code, nothing half written."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from nets import Plain, images, seeded
from shells import Shell, files

from sepify.formats.torchscript_write import save_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of good and bad files: one for all cases, so that model.pt is tried once."""
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as here:
        here.chdir(folder)
        write_inputs()
    return folder


def write_inputs():
    save_torchscript(torch.jit.trace(seeded(Plain(16)), images()), "model.pt", [(1, 3, 12, 12)])
    with open("model.pt", "rb") as file:
        whole = file.read()
    with open("half.pt", "wb") as file:
        file.write(whole[: len(whole) // 2])
    for name in ("text.pt", "text.pt2", "text.npy"):
        with open(name, "w") as file:
            file.write("hello")
    torch.save(seeded(Plain()).state_dict(), "state.pt")
    poisoned = seeded(Plain())
    torch.nn.init.constant_(poisoned.conv1.weight, float("nan"))
    save_torchscript(
        torch.jit.trace(poisoned, images(), check_trace=False), "nan.pt", [(1, 3, 12, 12)]
    )
    np.save("nan.npy", np.full_like(images(32).numpy(), np.nan))
    entry = {"name": "elsewhere", "action": "keep"}
    plan = {"format": "sepify-plan", "version": 1, "convolutions": [entry]}
    with open("other.json", "w") as file:
        json.dump(plan, file)


def broken(shell_args, code, message):
    return pytest.param(shell_args, code, message, id=message[:40])


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        broken(["nowhere.pt"], 1, "no such file: nowhere.pt"),
        broken(["text.pt"], 1, "text.pt is not a TorchScript file"),
        broken(["half.pt"], 1, "half.pt is truncated"),
        broken(["state.pt"], 1, "holds a state_dict or checkpoint"),
        broken(["nan.pt"], 1, "'conv1.weight' holds NaN"),
        broken(["model.pt", "--rank", "0"], 2, "rank 0 is too low"),
        broken(["model.pt", "--rank", "50"], 2, "rank 50 is too high"),
        broken(["model.pt", "--rank", "two"], 2, "unable to parse string as an integer"),
        broken(["model.pt", "--form", "up"], 2, "form 'up' is not known"),
        broken(["model.pt", "--method", "magic"], 2, "method 'magic' is not known"),
        broken(["model.pt"], 2, "give calibration images"),
        broken(["model.pt", "--rank", "2", "--style", "mobilenet"], 2, "or ask for it with method"),
        broken(["model.pt", "--keep", "layer9"], 1, "'layer9' matches no convolution"),
        broken(["model.pt", "--input-shape", "1,4,12,12"], 1, "4"),
        broken(["model.pt", "--input-shape", "big"], 2, "'big' is not like 1,3,224,224"),
        broken(["model.pt", "--calibration", "none.npy"], 1, "no such file: none.npy"),
        broken(
            ["model.pt", "--calibration", "text.npy"], 1, "text.npy is damaged, or not an .npy file"
        ),
        broken(["model.pt", "--calibration", "nan.npy"], 1, "holds NaN"),
        broken(["model.pt", "--plan", "text.pt"], 1, "not valid JSON"),
        broken(["model.pt", "--plan", "other.json"], 1, "which is no convolution of this model"),
        broken(["nosuch.module:factory"], 2, "cannot import 'nosuch.module'"),
        broken(["torch.nn:Nothing"], 2, "'torch.nn' has no 'Nothing'"),
        broken(["model.pt", "-o", "small.tflite"], 2, "the suffix says what to write"),
        broken(["model.pt", "-o", "text.pt/small.onnx"], 1, "cannot write"),
        broken(["model.onnx"], 2, "an ONNX file, which sepify writes but does not read"),
        broken(["w.safetensors"], 2, "weights without a model; sepify.load_weights"),
        broken(["model.pt", "--dtype", "int4"], 2, "type 'int4' is not known; choose one of float"),
        broken(["model.pt", "--dtype", "float16"], 1, "float16 (1, 3, 12, 12)"),
        broken(["nowhere.pt2"], 1, "no such file: nowhere.pt2"),
        broken(["text.pt2"], 1, "text.pt2 is truncated, or no .pt2 file"),
        broken(
            ["model.pt", "--input-shape", "1,3,12,12", "--dtype", "float32", "--dtype", "int64"],
            *(2, "2 types for 1 inputs"),
        ),
        broken(["model.pt", "-o", "text.pt/small.pt"], 1, "cannot write"),
    ],
)
def test_bad_input_is_one_line_the_right_code_and_nothing_half_written(
    inputs, monkeypatch, capsys, args, code, message
):
    monkeypatch.chdir(inputs)
    shell = Shell(monkeypatch, capsys)
    before = files()
    output = [] if "-o" in args else ["-o", "small.pt"]
    assert shell("convert", *args, *output).code == code, shell.err
    assert message in re.sub(r"[\s│]+", " ", shell.err)
    assert "Traceback" not in shell.err
    if "unable to parse" not in message:  # typer draws its own box
        assert len(shell.err.strip().splitlines()) == 1
    assert shell.out == ""
    assert files() == before
