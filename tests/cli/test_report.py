"""sepify report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import images
from PIL import Image
from shells import files

from sepify.measuring import load_report

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


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


def test_reports_side_by_side(shell):
    for rank in (1, 2):
        shell("convert", "model.pt", "-o", f"r{rank}.pt", "--rank", rank, "--calibration", "x.npy")
    reports = ("r1.report.json", "r2.report.json")
    done = shell("report", *reports, "-o", "both.html", "-o", "both.md", "-o", "both.json")
    assert done.code == 0, done.err
    assert "original" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    both = json.loads(Path("both.json").read_text())
    assert [entry["name"] for entry in both["reports"]] == ["r1", "r2"]
    assert "| r1 |" in Path("both.md").read_text()
    assert "data-chart" in Path("both.html").read_text()
    assert shell("report", "r1.report.json").code == 2
    assert shell("report", "model.pt").code == 2


def test_a_report_says_how_to_make_it_again(shell):
    np.savez("test.npz", images=images(40).numpy(), labels=np.arange(40) % 4)
    shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--no-report")
    done = shell(
        *("report", "model.pt", "small.pt", "--data", "test.npz", "--target", "none"),
        *("--calibration", "x.npy", "--uniform", "1,2", "-o", "r.json", "-o", "r.md"),
    )
    assert done.code == 0, done.err
    report = load_report("r.json")
    assert report.origin.command.startswith("sepify report model.pt small.pt --data test.npz")
    assert [file.name for file in report.origin.files] == [
        "model.pt",
        "small.pt",
        "small.plan.json",
        "test.npz",
        "x.npy",
    ]
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in report.origin.files)
    assert report.origin.plan is not None
    assert report.origin.plan["format"] == "sepify-plan"
    assert [v.label for v in report.variants] == [
        "uniform rank 1, unrefined",
        "uniform rank 2, unrefined",
    ]
    assert all(row.measured_error is not None for row in report.layers if row.action == "separate")
    refused = shell("report", "model.pt", "small.pt", "--uniform", "1", "--target", "none")
    assert (refused.code, "needs --calibration" in refused.err) == (2, True)
    assert shell("report", "model.pt", "small.pt", "--uniform", "one").code == 2


def test_pictures_that_are_prepared_wrongly_are_said_first(shell):
    random = np.random.default_rng(0)
    for number in range(60):
        folder = Path("set") / "abcd"[number % 4]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 255, (14, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    done = shell(
        *("convert", "model.pt", "-o", "small.pt", "--data", "set"),
        *("--preprocess", "size=12,mean=0.5,std=0.25", "--calibration", "set"),
    )
    assert done.code == 0, done.err
    assert "is near chance" in done.err.split("wrote")[0]
    report = load_report("small.report.json")
    assert report.accuracy is not None
    assert report.accuracy.images == 60
    assert report.changes is not None
    assert report.changes.names == ("a", "b", "c", "d")
    assert "near chance" in report.notes[0]


def test_a_metric_of_the_users(shell):
    Path("mine_metric.py").write_text(
        "def distance(output, target): return (output - target).abs().mean(1)\n"
        "def one(output, target): return 1.0\n"
    )
    np.savez("targets.npz", images=images(40).numpy(), labels=np.zeros((40, 5), np.float32))
    shell("convert", "--method", "svd", "model.pt", "-o", "small.pt", "--no-report")
    ask = ("report", "model.pt", "small.pt", "--data", "targets.npz", "--target", "none")
    done = shell(*ask, "--metric", "mine_metric:distance", "-o", "r.json")
    assert done.code == 0, done.err
    (metric,) = load_report("r.json").metrics
    assert (metric.name, metric.images) == ("distance", 40)
    assert metric.before.low < metric.before.value < metric.before.high
    assert "distance, mean of 40 images" in done.out
    wrong = shell(*ask, "--metric", "mine_metric:one")
    assert (wrong.code, "one number an image" in wrong.err) == (1, True)
    alone = shell("report", "model.pt", "small.pt", "--metric", "mine_metric:distance")
    assert (alone.code, "--metric needs --data" in alone.err) == (2, True)


def test_the_schema_is_printed(shell):
    assert json.loads(shell("report", "--schema").out)["$defs"]
