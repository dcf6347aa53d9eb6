"""What no rewritten layer comes before learns only if it shall."""

from dataclasses import replace

import pytest
import torch
from distilling.students import pictures, student, teacher, weights
from torch import nn
from torch.nn import functional as F

import sepify
from sepify.distilling import Losses, Training
from sepify.distilling.unchanged import freeze_unchanged
from sepify.errors import UsageError

QUICK = Training(batch=32, rate=5e-3, ema=None)


class Branching(nn.Module):
    """A stem, a branch beside the rewritten layer, a module called before it and after it, and a
    weight that is taken as it is after it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.beside = nn.Conv2d(8, 8, 1)
        self.twice = nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.norm(self.stem(x + self.shift))
        y = self.twice(self.conv(self.twice(x)))
        return self.head((F.relu(y) * self.scale + self.beside(x)).mean((2, 3)))


def test_what_learns():
    small = student(teacher(Branching()), keep=("stem", "beside", "twice"))
    still = freeze_unchanged(small)
    learning = {name.split(".")[0] for name, p in small.named_parameters() if p.requires_grad}
    assert learning == {"conv", "twice", "scale", "head"}
    assert set(still) == {small.stem, small.norm, small.beside}


def test_the_start_keeps_its_weights_and_its_statistics():
    network = teacher()
    small = student(network, keep=("conv1",))
    data = pictures(96)
    frozen = replace(QUICK, unchanged="frozen")
    losses = Losses(layers=0.5)
    taught = sepify.distill(
        small, teacher=network, data=data, epochs=2, training=frozen, losses=losses
    )
    before, after = weights(small), weights(taught)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    kept = {name for name in before if name.startswith(("conv1.", "bn1."))}
    assert kept
    assert not moved & kept
    assert {"conv2.depthwise.weight", "bn2.running_mean", "head.weight"} <= moved
    assert all(p.requires_grad for p in taught.parameters())
    assert not taught.bn1.training
    every = sepify.distill(small, teacher=network, data=data, epochs=2, training=QUICK)
    assert not torch.equal(every.bn1.running_mean, before["bn1.running_mean"])
    assert not torch.equal(every.conv1.weight, before["conv1.weight"])


class Deciding(nn.Module):
    """Left whole for what it asks of its values, with a layer to rewrite inside."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x) if float(x.detach().abs().sum()) > 0 else x


def test_a_rewritten_layer_in_a_module_that_is_called_whole_learns():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), Deciding(), nn.Conv2d(8, 5, 1)).eval()
    small = sepify.convert(
        network, example_inputs=pictures(2), keep=("0", "2"), solver=sepify.Solver(method="svd")
    )
    still = freeze_unchanged(small)
    learning = {name for name, p in small.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learning} == {"1", "2"}
    assert "1.conv.depthwise.weight" in learning
    assert still == (small.get_submodule("0"),)


@pytest.mark.filterwarnings("ignore::sepify.errors.UntrainedWarning")
def test_a_thinned_student_has_no_unchanged_part():
    pytest.importorskip("torch_pruning")
    network = teacher()
    thin = sepify.convert(
        network,
        architecture=sepify.Architecture(width=0.5),
        example_inputs=pictures(2),
        solver=sepify.Solver(method="svd"),
    )
    frozen = replace(QUICK, unchanged="frozen")
    with pytest.raises(
        UsageError, match=r"a student of width 0\.5 is changed from its first layer"
    ):
        sepify.distill(thin, teacher=network, data=pictures(32), training=frozen)


def test_nothing_is_rewritten():
    network = teacher()
    same = sepify.convert(
        network, keep=("conv*",), example_inputs=pictures(2), solver=sepify.Solver(method="svd")
    )
    frozen = replace(QUICK, unchanged="frozen")
    with pytest.raises(UsageError, match="no parameter that requires a gradient"):
        sepify.distill(
            same, teacher=network, data=pictures(32), training=frozen, losses=Losses(layers=0)
        )


def test_an_unknown_wish():
    with pytest.raises(UsageError, match="unchanged 'no' is not known; choose of train, frozen"):
        Training(unchanged="no")
