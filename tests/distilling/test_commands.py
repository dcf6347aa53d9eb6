"""`sepify distill`, `sepify convert --distill`, and both in several processes."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from distilling.students import pictures, student, teacher

import sepify
from sepify.cli.app import main
from sepify.formats.load import load_model
from sepify.formats.torchscript_write import save_torchscript
from sepify.storage import read_json
from sepify.storage.tensors import read_state

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    network = teacher()
    small = student(network)
    save_torchscript(torch.jit.trace(network, pictures(2)), "model.pt", [(1, 3, 12, 12)])
    sepify.save_model(small, "small.pt", pictures(1))
    sepify.save_plan(small.meta["sepify"].plan, "small.plan.json")
    np.save("images.npy", pictures().numpy())
    np.savez("labelled.npz", images=pictures().numpy(), labels=np.arange(192) % 5)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sepify", *args])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return run


DISTILL = ("distill", "small.pt", "--teacher", "model.pt", "-o", "better.pt", "--batch", "32")


def test_help_has_two_examples_and_more(shell):
    code, out, _ = shell("distill", "--help")
    assert code == 0
    assert len(re.findall(r"sepify\s+distill\s+small.pt", out)) == 3


def test_distill_writes_the_student_its_plan_and_the_curve(shell):
    code, out, err = shell(*DISTILL, "--data", "images.npy", "--epochs", "4")
    assert code == 0, err
    assert "distilled, 4 epoch(s)" in out
    assert all(f"wrote better.{s}" in err for s in ("pt", "plan.json", "distillation.json"))
    done = read_json("better.distillation.json")
    assert done["epochs"][-1]["judgement"]["distance"] < done["start"]["distance"]
    assert done["matched"] == ["conv1", "conv2"]
    assert sepify.load_plan("better.plan.json") == sepify.load_plan("small.plan.json")
    before, after = (load_model(name).module for name in ("small.pt", "better.pt"))
    x = pictures(8)
    assert not torch.allclose(before(x), after(x))
    assert not os.path.exists("better.distill")


def test_labels_in_the_file_are_learnt_and_can_be_left_out(shell):
    options = ("--data", "labelled.npz", "--epochs", "1", "--augment", "shift=1,mirror")
    losses = []
    for weight in ("0.1", "0"):
        assert shell(*DISTILL, *options, "--label-weight", weight)[0] == 0
        losses.append(read_json("better.distillation.json")["epochs"][0]["loss"])
    assert losses[0] > losses[1]


def test_what_is_unchanged_can_stay_so(shell):
    sepify.save_model(student(teacher(), keep=("conv1",)), "small.pt", pictures(1))
    options = (*DISTILL, "--data", "images.npy", "--epochs", "1")
    assert shell(*options, "--freeze-unchanged")[0] == 0
    before, after = (torch.jit.load(file).state_dict() for file in ("small.pt", "better.pt"))
    assert torch.equal(before["conv1.weight"], after["conv1.weight"])
    assert not torch.equal(before["conv2.depthwise.weight"], after["conv2.depthwise.weight"])
    assert shell(*options)[0] == 0
    assert not torch.equal(
        before["conv1.weight"], torch.jit.load("better.pt").state_dict()["conv1.weight"]
    )


def test_convert_distils(shell):
    options = ("--calibration", "images.npy", "--distill", "images.npy", "--epochs", "2")
    code, out, err = shell("convert", "model.pt", "-o", "taught.pt", *options)
    assert code == 0, err
    assert "distilled, 2 epoch(s)" in out
    for suffix in ("pt", "plan.json", "distillation.json", "report.html"):
        assert os.path.exists(f"taught.{suffix}")
    assert sepify.load_plan("taught.plan.json").method == "least-squares"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--data", "images.npy", "--epochs", "0"), 2, "there is nothing to do"),
        (("--data", "images.npy", "--augment", "rotate"), 2, "'rotate' is not known"),
        (("--data", "images.npy", "--precision", "int4"), 2, "mixed_precision 'int4'"),
        (("--data", "none.npy"), 1, "no such file"),
        (("--data", "wrong.npy"), 1, "reads 3 channels"),
        (("--data", "images.npy", "--teacher", "other.pt"), 1, "with the same outputs"),
    ],
)
def test_what_is_refused_leaves_nothing(shell, tmp_path, options, code, message):
    np.save("wrong.npy", np.zeros((64, 1, 12, 12), np.float32))
    other = torch.nn.Sequential(
        torch.nn.Conv2d(3, 7, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    save_torchscript(torch.jit.trace(other, pictures(2)), "other.pt", [(1, 3, 12, 12)])
    before = {path.name for path in tmp_path.iterdir()}
    found, _, err = shell(*DISTILL, *options)
    assert (found, message in err) == (code, True), err
    assert {path.name for path in tmp_path.iterdir()} == before


def test_an_interrupted_command_goes_on_only_if_asked(shell, monkeypatch):
    options = (*DISTILL, "--data", "images.npy")
    assert shell(*options)[0] == 0
    expected = read_json("better.distillation.json")["epochs"]

    def fail(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sepify.jobs.distill.save_model", fail)
        assert shell(*options)[0] != 0
    assert len(read_state("better.distill")["position"]["epochs"]) == 3
    code, _, err = shell(*options)
    assert code == 2
    assert "add --resume to go on" in err
    assert shell(*options, "--resume")[0] == 0
    found = read_json("better.distillation.json")["epochs"]
    assert [e["loss"] for e in found] == [e["loss"] for e in expected]
    assert not os.path.exists("better.distill")


def test_two_processes_have_the_loss_curve_of_one(shell, environment):
    options = (*DISTILL[1:], "--data", "images.npy", "--freeze-batchnorm", "--epochs", "3")
    code, _, err = shell("distill", *options)
    assert code == 0, err
    alone = read_json("better.distillation.json")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]  # by torchrun
    single = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [*launch, "--num_processes", "2", *single, "-m", "sepify", "distill", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("distilled in 2 processes, 3 epoch(s)") == 1
    assert done.stderr.count("wrote better.pt") == 1
    together = read_json("better.distillation.json")
    assert (alone["processes"], together["processes"]) == (1, 2)
    for one, two in zip(alone["epochs"], together["epochs"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert two["judgement"] == pytest.approx(one["judgement"], rel=1e-3)
    losses = [epoch["loss"] for epoch in together["epochs"]]
    assert losses == sorted(losses, reverse=True)
