"""sepify convert."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import images
from shells import files
from torch import nn

import sepify
from sepify.formats.torchscript_read import load_torchscript
from sepify.formats.torchscript_write import save_torchscript

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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


def test_nothing_can_be_separated(shell):
    save_torchscript(torch.jit.trace(nn.Conv2d(3, 4, 1), images()), "thin.pt", [(1, 3, 12, 12)])
    done = shell("convert", "thin.pt", "-o", "small.pt")
    assert done.code == 0
    assert "nothing to do: none of 1 convolutions can be separated" in done.out


def test_ctrl_c_leaves_nothing_behind(shell, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("sepify.jobs.convert.convert", interrupted)
    assert shell("convert", "--method", "svd", "model.pt", "-o", "small.pt").code == 130
    assert files() == {"model.pt", "x.npy"}
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


def test_quiet_leaves_the_result_and_nothing_on_stderr(shell):
    done = shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--quiet")
    assert "2 of 2 convolutions separated" in done.out
    told = done.err.strip().splitlines()
    assert [line.split(":")[0] for line in told] == ["warning"]
    assert "no images were given" in told[0]
    assert "wrote" in shell("convert", "--method", "svd", "model.pt", "-o", "small.pt").err
    assert "no such file" in shell("inspect", "none.pt", "--quiet").err


def test_json_is_all_there_is_on_stdout(shell):
    found = json.loads(shell("inspect", "model.pt", "--json").out)
    assert found["macs"] == 228_096
    assert [layer["name"] for layer in found["layers"]] == ["conv1", "conv2"]
    assert list(found["totals"]) == ["1", "2", "3"]
    doctor = json.loads(shell("doctor", "--json").out)
    assert doctor["versions"]["torch"] == torch.__version__
    needs = {need["name"]: need for need in doctor["commands"]}
    assert needs["cc"]["ready"] == (needs["cc"]["missing"] == "")
    done = shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--json")
    facts = json.loads(done.out)
    assert (facts["separated"], facts["convolutions"]) == (2, 2)
    assert facts["written"] == [
        "small.pt",
        "small.plan.json",
        "small.report.json",
        "small.report.html",
    ]
    assert "wrote small.pt" in done.err


def test_precision_is_carried_out_and_stands_in_the_plan(shell):
    np.save("x.npy", images(96).numpy())
    options = ("--calibration", "x.npy", "--no-report", "--precision", "int8")
    done = shell("convert", "model.pt", "-o", "q.pt2", *options)
    assert done.code == 0, done.err
    assert "5 of 5 layers quantised" in done.out
    plan = json.loads(Path("q.plan.json").read_text())
    assert [entry["precision"] for entry in plan["convolutions"]] == ["int8", "int8"]
    refused = shell("convert", "model.pt", "-o", "q.pt", *options)
    assert refused.code == 2
    assert "written as .pt2, not as '.pt'" in refused.err
