"""Tuning for real, on a small network: right, kept, and reused by the next one."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from sepify.compiling import compile
from sepify.compiling.kernel_tuning.records import FILE_NAME
from sepify.compiling.kernel_tuning.sample import sample
from sepify.compiling.kernel_tuning.search import search
from sepify.compiling.kernel_tuning.worker import Subject
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.depthwise import DEPTHWISE
from sepify.compiling.kernels.grouped import GROUPED
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.linear import LINEAR
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.pooled import POOLED
from sepify.compiling.kernels.pw_dw import PW_DW
from sepify.compiling.kernels.separable import SEPARABLE
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.targets import find_target
from sepify.errors import DatabaseWarning

_X = torch.randn(1, 3, 20, 20)
_WINDOW = Window((3, 3), (1, 1), (1, 1, 1, 1))
_RELU = Epilogue(clip=(0.0, float("inf")))


def network(outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, 1, 1, groups=24),
        nn.Conv2d(24, 40, 1),
        nn.Flatten(),
        nn.Linear(40 * 400, outputs),
    ).eval()


def test_tuned_is_right_kept_and_reused(tmp_path):
    lines = []
    model = network()
    tuned = compile(model, _X, tune=7, database=tmp_path, progress=lambda *line: lines.append(line))
    assert tuned.metadata.trials == 7
    assert tuned.metadata.tuned_kernels > 0
    assert any(what.startswith("tuning 3 kernels: ") and total == 7 for what, _, total in lines)
    with torch.no_grad():
        torch.testing.assert_close(tuned(_X), model(_X), rtol=1e-4, atol=1e-4)
    second = compile(network(12), _X, database=tmp_path)
    assert second.metadata.trials == 0
    assert second.metadata.tuned_kernels == 2  # another fully connected layer
    assert second.metadata.records_reused == 2


def test_records_of_another_version_are_ignored_and_that_is_said(tmp_path):
    compile(network(), _X, tune=1, database=tmp_path)
    path = tmp_path / FILE_NAME
    line = json.loads(path.read_text())
    line["versions"]["tvm"] = "0.1"
    path.write_text(json.dumps(line) + "\n")
    with pytest.warns(DatabaseWarning, match="1 records of other versions"):
        compiled = compile(network(), _X, database=tmp_path)
    assert compiled.metadata.tuned_kernels == 0


@pytest.mark.parametrize(
    "workload",
    [
        Workload(DENSE, Conv(1, 3, 9, 9, 20, _WINDOW, 9, 9), _RELU, blocked=False),
        Workload(
            POOLED,
            Conv(1, 3, 9, 9, 20, _WINDOW, 9, 9),
            blocked=False,
            then=Conv(1, 20, 9, 9, 20, Window((3, 3), (2, 2), (1, 1, 1, 1)), 5, 5, 20),
        ),
        Workload(DENSE, Conv(1, 40, 9, 9, 36, _WINDOW, 9, 9), Epilogue(residual=True)),
        Workload(DEPTHWISE, Conv(1, 20, 9, 9, 20, _WINDOW, 9, 9, 20), _RELU),
        Workload(GROUPED, Conv(1, 20, 9, 9, 40, _WINDOW, 9, 9, 20), _RELU),
        Workload(LINEAR, Conv(2, 50, 1, 1, 30, Window((1, 1)), 1, 1), blocked=False),
        Workload(
            PW_DW,
            Conv(1, 20, 9, 9, 40, Window((1, 1)), 9, 9),
            Epilogue(True),
            then=Conv(1, 40, 9, 9, 20, _WINDOW, 9, 9, 20),
        ),
        Workload(
            SEPARABLE,
            Conv(1, 20, 9, 9, 20, _WINDOW, 9, 9, 20),
            Epilogue(True),
            rank=2,
            outputs=36,
            middle=_RELU,
        ),
    ],
    ids=lambda workload: workload.kind.name,
)
def test_candidates_are_checked_against_torch(workload, monkeypatch):
    from sepify.compiling import tvm_api
    from sepify.compiling.kernel_tuning import worker

    target = find_target("native")
    subject = Subject(workload, target.machine, tvm_api.make_target(target.description))
    candidates = search(workload, target.machine)
    next(candidates)
    knobs = candidates.send([1.0])[0]
    seconds, relative = subject.race(subject.prepare(knobs))
    assert seconds > 0
    assert relative > 0
    monkeypatch.setattr(worker, "tolerance", lambda *_: -1.0)  # some are bit-equal
    with pytest.raises(ValueError, match="differs from torch"):
        subject.prepare(knobs)


def test_the_sample_is_not_trivial():
    conv = Conv(2, 20, 9, 9, 36, _WINDOW, 9, 9)
    arguments, expected = sample(Workload(DENSE, conv, _RELU), Machine(16, 32), Knobs(4, 2, 9, 1))
    assert [array.shape for array in arguments] == [(2, 2, 9, 9, 16), (3, 18 * 16, 16), (3, 16)]
    assert expected.shape == (2, 3, 9, 9, 16)
    assert (expected > 0).mean() > 0.2
    assert not expected[:, 2, ..., 4:].any()
