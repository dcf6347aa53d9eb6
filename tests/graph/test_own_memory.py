"""One copy of a model serves a whole capture: what runs and traces change in it is undone."""

from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sepify.capture import capture, reference
from sepify.capture.reference import reference_run
from sepify.graph.own_memory import Memory

X = torch.randn(2, 3, 16, 16)


class Keeper(nn.Module):
    """Keeps things of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.last: object = None
        self.settings = SimpleNamespace(seen=[1], inner=SimpleNamespace(name="a"))
        self.kept = {"list": [1, 2], "set": {1}, "deque": deque([1]), "counts": defaultdict(int)}
        self.table = torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


def changes(model: Keeper) -> None:
    model.last = X
    model.settings.inner.name = "b"
    model.settings.seen.append(2)
    model.kept["list"].clear()  # type: ignore[attr-defined]
    model.kept["set"].add(2)  # type: ignore[attr-defined]
    model.kept["deque"].append(2)  # type: ignore[attr-defined]
    model.kept["counts"]["a"] += 1  # type: ignore[index]
    model.kept["more"] = []
    model.conv._forward_hooks[7] = print
    model.extra = nn.ReLU()
    model.anchors = torch.ones(2)
    model.train()(X)  # the statistics move


def test_everything_is_put_back() -> None:
    model = Keeper().eval()
    held = dict(vars(model))
    before = Memory(model)
    assert not before.changed()
    changes(model)
    assert before.changed()
    assert before.restore()
    assert not before.changed()
    assert vars(model).keys() == held.keys()
    assert not hasattr(model, "extra")
    assert (model.last, model.settings.seen, model.settings.inner.name) == (None, [1], "a")
    kept = {"list": [1, 2], "set": {1}, "deque": deque([1]), "counts": {}}
    assert model.kept == kept
    assert not model.conv._forward_hooks
    assert (model.training, model.bn.training) == (False, False)
    assert torch.equal(model.bn.running_mean, torch.zeros(4))
    assert model.bn.num_batches_tracked.item() == 0


@pytest.mark.parametrize("written", ["table", "conv.weight"])
def test_a_tensor_that_was_written_to_cannot_be_put_back(written: str) -> None:
    model = Keeper().eval()
    before = Memory(model)
    owner, _, name = written.rpartition(".")
    with torch.no_grad():
        getattr(model.get_submodule(owner), name).add_(1)
    assert not before.restore()


def test_what_cannot_be_looked_into_cannot_be_put_back() -> None:
    model = Keeper()
    model.array = np.zeros(3)
    assert not Memory(model).restore()


def test_the_same_copy_is_lent_as_it_was_given() -> None:
    lender = reference_run(Keeper().eval(), (X,))
    with lender.lent() as first:
        changes(first)  # type: ignore[arg-type]
    with lender.lent() as second:
        assert second is first
        assert (second.last, second.training) == (None, False)


class Writer(Keeper):
    """Counts in a tensor that is no buffer."""

    def forward(self, x: Tensor) -> Tensor:
        self.table += 1
        return super().forward(x) * self.table[0] ** 0


class Late(Keeper):
    """Does so for more than two images alone, when everything seemed to be undoable."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if x.shape[0] != 2:
            self.table += 1
        return y if x.shape[2] > 4 else y + 1


@pytest.mark.parametrize("kind", [Writer, Late])
def test_a_model_that_writes_to_its_tensors_is_copied(kind: type[Keeper]) -> None:
    model = kind().eval()
    result = capture(model, (X,))
    assert torch.equal(model.table, torch.zeros(3))
    assert torch.equal(result.graph_module(X), model(X))


def test_it_is_given_up_when_a_loan_cannot_be_undone() -> None:
    lender = reference_run(Late().eval(), (X,))
    assert lender.is_undoable
    assert lender.answer((X[:1],)) is not None
    assert not lender.is_undoable
    with lender.lent() as first, lender.lent() as second:
        assert first is not second
        assert torch.equal(first.table, torch.zeros(3))  # type: ignore[arg-type]


def test_hooks_and_computed_weights_are_copied_for_each() -> None:
    hooked = Keeper().eval()
    hooked.conv.register_forward_hook(lambda *_: None)
    assert not reference_run(hooked, (X,)).is_undoable
    normed = Keeper().eval()
    nn.utils.parametrizations.weight_norm(normed.conv)
    assert not reference_run(normed, (X,)).is_undoable


class Branching(Keeper):
    """Needs the value tracer."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if x.shape[2] > 4 else y + 1


@pytest.mark.parametrize("kind", [Keeper, Branching])
def test_a_capture_makes_one_copy(kind: type[Keeper], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    copy_module = reference.copy_module
    monkeypatch.setattr(reference, "copy_module", lambda m: made.append(copy_module(m)) or made[-1])
    result = capture(kind().eval(), (X,))
    assert len(made) == 1
    assert result.graph_module.get_submodule("conv") is made[0].conv
