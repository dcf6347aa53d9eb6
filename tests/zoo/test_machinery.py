"""The zoo's own machinery, on small networks: a check that cannot fail would prove nothing."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from nets import Plain, Residual
from torch import nn

import sepify
from zoo import checks
from zoo.answers import distance, equal, tensors
from zoo.checks import CHECKS
from zoo.entry import Entry
from zoo.registry import ENTRIES
from zoo.specimen import Specimen
from zoo.waking import waken

pytestmark = pytest.mark.filterwarnings("ignore")


def entry(build, **options):
    return Entry("own/net", "own", "own", build, size=12, other=16, **options)


def test_the_zoo_is_large_and_no_family_stands_for_one_network_alone():
    assert len(ENTRIES) >= 150
    assert all(name == e.name for name, e in ENTRIES.items())
    families = Counter((e.source, e.family) for e in ENTRIES.values())
    assert len(families) >= 75
    assert {source for source, _ in families} == {
        *("timm", "torchvision", "transformers", "smp", "ultralytics")
    }


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_a_sound_network_passes_every_check(check):
    remark = check(Specimen(entry(Residual)))
    assert "refuse" not in remark


class Fixed(nn.Module):
    """Takes one size of image."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(400, 2)

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


class Growing(nn.Module):
    """Answers otherwise each time."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x) * self.calls


def test_what_the_original_refuses_is_a_remark():
    assert checks.another_size(Specimen(entry(Fixed))).startswith("the original refuses")
    assert checks.another_size(Specimen(Entry("a", "b", "c", Fixed, 12, None))).startswith(
        "the arch"
    )


def test_a_graph_that_answers_otherwise_fails():
    specimen = Specimen(entry(Growing))
    with pytest.raises((AssertionError, sepify.errors.CaptureError)):
        checks.captured_exactly(specimen)


def test_a_wrong_plan_fails(monkeypatch):
    specimen = Specimen(entry(Plain))
    monkeypatch.setattr(checks, "counted_macs", lambda network, inputs: id(network))
    with pytest.raises(AssertionError, match="the plan says"):
        checks.rank_one(specimen)


def test_a_failed_capture_is_remembered(monkeypatch):
    specimen = Specimen(entry(Plain))
    calls = []

    def failing(model, inputs):
        calls.append(model)
        raise sepify.errors.CaptureError("no")

    monkeypatch.setattr("zoo.specimen.capture", failing)
    for _ in range(2):
        with pytest.raises(sepify.errors.CaptureError):
            checks.captured_exactly(specimen)
    assert len(calls) == 1


def test_nothing_is_left_idle():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    nn.init.zeros_(model[1].weight)
    woken = waken(model)
    assert not woken.training
    assert float(woken[1].weight.detach().abs().min()) >= 0.05
    assert not torch.equal(woken[1].running_var, torch.ones(4))


def test_answers_are_compared_whole():
    x = torch.tensor([1.0, float("nan")])
    assert [t.shape for t in tensors({"a": [x, None], "b": (x,)})] == [x.shape, x.shape]
    assert equal(x, x.clone())
    assert not equal(x, torch.tensor([2.0, float("nan")]))
    assert distance(x, torch.tensor([1.0, 1.0])) == float("inf")
    assert distance(x, [x, x]) == float("inf")
    assert distance(torch.ones(2), torch.tensor([1.0, 1.5])) == 0.5
