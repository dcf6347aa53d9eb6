"""The shell, as its user meets it: what is printed where, exit codes, and what is left on disk."""

import json
import os
import re
import sys

import numpy as np
import pytest
import torch
from nets import Plain, images, relative_error, seeded
from torch import nn

import sepify
from sepify.cli import main
from sepify.compiling import load_compiled
from sepify.formats.load import load_model
from sepify.formats.torchscript_read import load_torchscript
from sepify.formats.torchscript_write import save_torchscript
from sepify.measuring import load_report

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * scale[:, :, None, None]


class Shell:
    def __init__(self, monkeypatch, capsys):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *args: object) -> "Shell":
        self.monkeypatch.setattr(sys, "argv", ["sepify", *map(str, args)])
        self.code = 0
        try:
            main()
        except SystemExit as stop:
            self.code = stop.code or 0
        self.out, self.err = self.capsys.readouterr()
        return self


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    save_torchscript(torch.jit.trace(seeded(Plain(16)), images()), "model.pt", [(1, 3, 12, 12)])
    return Shell(monkeypatch, capsys)


def files() -> set[str]:
    return set(os.listdir())


def test_help_names_every_command_and_each_has_two_examples(shell):
    assert shell("--help").code == 0
    commands = ("inspect", "convert", "compile", "report", "demo")
    assert all(name in shell.out for name in commands)
    for name in commands:
        text = shell(name, "--help").out
        assert len(re.findall(rf"sepify\s+{name} ", text)) >= 3  # usage and two examples


def test_inspect(shell):
    assert shell("inspect", "model.pt").code == 0
    assert "2 convolutions, 228,096 MACs an image (456,192 FLOPs)" in shell.out
    assert "conv1" in shell.out
    assert max(map(len, shell.out.splitlines())) <= 80
    assert "\x1b" not in shell.out


def test_convert_writes_a_model_a_plan_and_reports_that_can_be_used_again(shell):
    np.save("x.npy", images(32).numpy())
    first = shell("convert", "model.pt", "-o", "out/small.pt", "--calibration", "x.npy")
    assert first.code == 0, first.err
    assert "2 of 2 convolutions separated by least-squares" in shell.out
    written = {"small.pt", "small.plan.json", "small.report.json", "small.report.html"}
    assert set(os.listdir("out")) == written
    small = load_torchscript("out/small.pt")
    assert small.input_shapes == ((1, 3, 12, 12),)
    assert "conv1.depthwise.weight" in small.module.state_dict()

    again = shell(
        *("convert", "model.pt", "-o", "again.pt", "--calibration", "x.npy"),
        *("--plan", "out/small.plan.json", "--no-report"),
    )
    assert again.code == 0, again.err
    state = load_torchscript("again.pt").module.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in small.module.state_dict().items())
    assert not files() & {"again.report.json", "again.report.html"}


def test_mirror_calibrates_on_the_mirror_images_too(shell):
    both = images(32)
    np.save("x.npy", both.numpy())
    np.save("both.npy", torch.cat([both, both.flip(3)]).numpy())
    options = ("--no-report", "--calibration")
    assert shell("convert", "model.pt", "-o", "plain.pt", *options, "x.npy").code == 0
    assert shell("convert", "model.pt", "-o", "mirror.pt", *options, "x.npy", "--mirror").code == 0
    assert shell("convert", "model.pt", "-o", "both.pt", *options, "both.npy").code == 0
    plain, mirrored, given = (
        load_torchscript(f"{name}.pt").module.state_dict() for name in ("plain", "mirror", "both")
    )
    assert all(torch.equal(value, given[key]) for key, value in mirrored.items())
    assert not all(torch.equal(value, plain[key]) for key, value in mirrored.items())
    broken = shell("convert", "model.pt", "-o", "none.pt", "--mirror")
    assert broken.code == 2
    assert "--mirror needs --calibration" in broken.err


def test_convert_from_a_factory_needs_a_shape(shell):
    spec = "torch.nn:Identity"
    refused = shell("convert", spec, "-o", "small.pt")
    assert refused.code == 2
    assert "--input-shape 1,3,224,224" in refused.err
    done = shell("convert", spec, "-o", "small.pt", "--input-shape", "1,3,8,8")
    assert done.code == 0
    assert "nothing to do: the model has no convolutions" in done.out
    assert files() == {"model.pt", "small.pt", "small.plan.json"}


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_the_suffix_says_what_is_written(shell, suffix):
    done = shell("convert", "--method", "svd", "model.pt", "-o", f"small{suffix}")
    assert done.code == 0, done.err
    assert "2 of 2 convolutions separated by svd" in done.out
    assert "any batch and image size" in re.sub(r"\s+", " ", done.out)
    stem = {"small.plan.json", "small.report.json", "small.report.html"}
    assert files() == {"model.pt", f"small{suffix}"} | stem


def test_what_was_written_goes_in_again(shell):
    assert shell("convert", "--method", "svd", "model.pt", "-o", "one.pt2", "--no-report").code == 0
    assert "2 convolutions" not in shell("inspect", "one.pt2").out
    assert "already depthwise" in shell.out
    done = shell("convert", "--method", "svd", "one.pt2", "-o", "two.pt2", "--no-report")
    assert done.code == 0, done.err
    report = shell("report", "model.pt", "one.pt2", "--target", "none", "-o", "report.json")
    assert report.code == 0, report.err
    assert load_report("report.json").after.macs < load_report("report.json").before.macs


def test_weights_alone_and_the_way_back(shell):
    done = shell("convert", "--method", "svd", "model.pt", "-o", "small.safetensors", "--no-report")
    assert done.code == 0, done.err
    assert (
        shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--no-report").code == 0
    )
    fresh = seeded(Plain(16), seed=7)
    back = sepify.load_weights(fresh, "small.plan.json", "small.safetensors")
    wanted = load_torchscript("small.pt").module(images())
    assert relative_error(back(images()), wanted) < 1e-5


def test_half_precision_and_several_inputs(shell):
    for dtype in (torch.float16, torch.bfloat16):
        script = torch.jit.trace(seeded(Plain(16)).to(dtype), images().to(dtype), check_trace=False)
        save_torchscript(script, "half.pt")
        name = str(dtype).removeprefix("torch.")
        options = ("--input-shape", "2,3,12,12", "--dtype", name, "--no-report")
        done = shell("convert", "--method", "svd", "half.pt", "-o", "small.pt2", *options)
        assert done.code == 0, done.err
        assert load_model("small.pt2").inputs[0].dtype == dtype
    save_torchscript(torch.jit.script(seeded(Two())), "two.pt")
    shapes = ("--input-shape", "1,3,12,12", "--input-shape", "1,4")
    done = shell("convert", "--method", "svd", "two.pt", "-o", "small.pt2", *shapes, "--no-report")
    assert done.code == 0, done.err
    assert [tuple(x.shape) for x in load_model("small.pt2").inputs] == [(1, 3, 12, 12), (1, 4)]


def test_nothing_can_be_separated(shell):
    save_torchscript(torch.jit.trace(nn.Conv2d(3, 4, 1), images()), "thin.pt", [(1, 3, 12, 12)])
    done = shell("convert", "thin.pt", "-o", "small.pt")
    assert done.code == 0
    assert "nothing to do: none of 1 convolutions can be separated" in done.out


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
        broken(["model.pt", "--order", "up"], 2, "order 'up' is not known"),
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
def test_bad_input_is_one_line_the_right_code_and_nothing_half_written(shell, args, code, message):
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
    np.save("nan.npy", images(32).numpy() / 0)
    entry = {"name": "elsewhere", "action": "keep"}
    plan = {"format": "sepify-plan", "version": 1, "convolutions": [entry]}
    with open("other.json", "w") as file:
        json.dump(plan, file)
    before = files()
    output = [] if "-o" in args else ["-o", "small.pt"]
    assert shell("convert", *args, *output).code == code, shell.err
    assert message in re.sub(r"[\s│]+", " ", shell.err)
    assert "Traceback" not in shell.err
    if "unable to parse" not in message:  # typer draws its own box
        assert len(shell.err.strip().splitlines()) == 1
    assert shell.out == ""
    assert files() == before


def test_compile_then_load(shell):
    done = shell("compile", "model.pt", "-o", "bundle")
    assert done.code == 0, done.err
    assert "compiled for native; largest relative error" in done.out
    assert "wrote bundle" in done.err
    compiled = load_compiled("bundle")
    wanted = load_torchscript("model.pt").module(torch.ones(1, 3, 12, 12))
    torch.testing.assert_close(compiled(torch.ones(1, 3, 12, 12)), wanted, rtol=1e-4, atol=1e-5)


def test_targets_are_listed_and_near_names_offered(shell):
    listed = shell("compile", "--target", "list")
    assert listed.code == 0
    assert {"native", "x86-64-v3"} <= set(listed.out.split())
    wrong = shell("compile", "model.pt", "-o", "bundle", "--target", "x86-64-v33")
    assert wrong.code == 2
    assert "x86-64-v3" in wrong.err
    missing = shell("compile", "model.pt")
    assert missing.code == 2
    assert "needs a MODEL and an output folder" in missing.err
    assert files() == {"model.pt"}


def test_report_on_files(shell):
    assert (
        shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--no-report").code == 0
    )
    labels = torch.arange(40) % 5
    np.savez("test.npz", images=images(40).numpy(), labels=labels.numpy())
    done = shell(
        *("report", "model.pt", "small.pt", "--data", "test.npz", "--target", "none"),
        *("-o", "report.html", "-o", "report.json"),
    )
    assert done.code == 0, done.err
    assert "top-1" in done.out
    assert "conv1" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    report = load_report("report.json")
    assert report.accuracy is not None
    assert report.accuracy.images == 40
    refused = shell("report", "model.pt", "small.pt", "--target", "none", "-o", "report.pdf")
    assert refused.code == 2
    assert "report.pdf" in refused.err
    assert not files() & {"report.pdf"}


def test_demo_refuses_a_folder_that_cannot_be_written_before_it_works(shell):
    refused = shell("demo", "-o", "model.pt/demo")
    assert refused.code == 1
    assert "cannot write" in refused.err


def test_ctrl_c_leaves_nothing_behind(shell, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sepify.jobs.convert.convert", interrupted)
    assert shell("convert", "--method", "svd", "model.pt", "-o", "small.pt").code == 130
    assert files() == {"model.pt"}
    assert "interrupted" in shell.err


def test_a_warning_of_ours_is_one_line_and_memory_can_be_bounded(shell):
    np.save("few.npy", images(16, size=4).numpy())
    network = nn.Sequential(nn.Conv2d(3, 40, 3), nn.Conv2d(40, 8, 2)).eval()
    save_torchscript(torch.jit.trace(network, images(2, size=4)), "small.pt", [(1, 3, 4, 4)])
    asked = ("convert", "small.pt", "-o", "out.pt", "--calibration", "few.npy", "--no-report")
    assert shell(*asked, "--memory", 0.0001).code == 0
    assert "warning: few positions for the elements of a patch in 1 (14" in shell.err
    assert "site-packages" not in shell.err
    reasons = [d.reason for d in sepify.load_plan("out.plan.json")]
    assert "on the maps of 16 of 16 images" in reasons[1]
