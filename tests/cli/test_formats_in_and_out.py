"""The formats that the commands read and write."""

from __future__ import annotations

import re

import pytest
import torch
from nets import Plain, images, relative_error, seeded
from shells import files
from torch import nn

import sepify
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


def test_convert_from_a_factory_needs_a_shape(shell):
    spec = "torch.nn:Identity"
    refused = shell("convert", spec, "-o", "small.pt")
    assert refused.code == 2
    assert "--input-shape 1,3,224,224" in refused.err
    done = shell("convert", spec, "-o", "small.pt", "--input-shape", "1,3,8,8")
    assert done.code == 0
    assert "nothing to do: the model has no convolutions" in done.out
    assert files() == {"model.pt", "x.npy", "small.pt", "small.plan.json"}


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_the_suffix_says_what_is_written(shell, suffix):
    done = shell("convert", "--method", "svd", "model.pt", "-o", f"small{suffix}")
    assert done.code == 0, done.err
    assert "2 of 2 convolutions separated by svd" in done.out
    assert "any batch and image size" in re.sub(r"\s+", " ", done.out)
    stem = {"small.plan.json", "small.report.json", "small.report.html"}
    assert files() == {"model.pt", "x.npy", f"small{suffix}"} | stem


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
