"""Networks that write to themselves answer right call after call, or are refused by name."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from options import grouped
from torch import Tensor, fx, nn

import sepify
from sepify.capture import capture
from sepify.errors import CaptureError, SepifyError, UsageError
from sepify.formats.load import load_model
from sepify.formats.save import save_model

FRAMES = torch.randn(5, 1, 1, 4, 12, generator=torch.Generator().manual_seed(2))
X = FRAMES[0]


class Keeps(nn.Module):
    """Two convolutions, and a state."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=(0, 1))
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.register_buffer("past", torch.zeros(1, 1, 2, 12))
        self.register_buffer("calls", torch.zeros(()))

    def body(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class Copies(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.past, x], 2)
        self.past.copy_(joined[:, :, -2:])
        self.calls += 1
        return self.body(joined) / self.calls


class Reassigns(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.past, x], 2)
        self.past = joined[:, :, -2:].clone()
        return self.body(joined)


class Assigns(Keeps):
    """A part of a buffer."""

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.past, x], 2)
        self.past[:, :, 0] = x[:, :, -1]
        return self.body(joined)


class Averages(Keeps):
    def forward(self, x: Tensor) -> Tensor:
        self.calls.mul_(0.5).add_(x.mean())
        return self.body(x) - self.calls


class Delays(Keeps):
    """Its first three answers are those of a network without a state."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(torch.cat([self.past, x], 2)) * (self.calls > 3).float()


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.seen = nn.Conv2d(8, 8, 3, padding=1), 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        if x.sum() > 1e9:  # nothing can trace it: it is left whole
            return x
        return self.conv(x) * self.seen


class Inside(Keeps):
    """In a layer that is left whole."""

    def __init__(self) -> None:
        super().__init__()
        self.second = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(torch.cat([self.past, x], 2))


class Counts(Keeps):
    """In Python, and not before the fiftieth call does it matter."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def forward(self, x: Tensor) -> Tensor:
        self.number += 1
        y = self.body(torch.cat([self.past, x], 2))
        return y * 2 if self.number > 50 else y


class Lists(Keeps):
    def __init__(self) -> None:
        super().__init__()
        self.history: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.history.append(x.mean())
        return self.body(torch.cat([self.past, x], 2)) + torch.stack(self.history).sum()


class Attribute(Keeps):
    """A tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(torch.cat([self.past, x], 2)) + self.table
        self.table += x.mean()
        return y


class Rebinds(Attribute):
    def forward(self, x: Tensor) -> Tensor:
        y = self.body(torch.cat([self.past, x], 2)) + self.table
        self.table = x.mean()
        return y


class First(Keeps):
    """Compares everything with what it saw first."""

    def __init__(self) -> None:
        super().__init__()
        self.reference: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.reference is None:
            self.reference = x
        return self.body(torch.cat([self.past, x - self.reference], 2))


class Looks(Keeps):
    """Writes what it never reads, counts what does not matter, and keeps a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.map: Tensor | None = None
        self.number, self.grid = 0, None

    def forward(self, x: Tensor) -> Tensor:
        self.number += 1
        if self.grid is None:
            self.grid = torch.ones(8, 1, 1)
        self.map = self.body(torch.cat([self.past, x], 2))
        return self.map * self.grid


FOLLOWED = (Copies, Reassigns, Assigns, Averages, Delays, Inside, Attribute)
REFUSED = {Counts: "number", Lists: "history", Rebinds: "table"}


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def exactly(model: Any, **data: Any) -> fx.GraphModule:
    """Every convolution separated at full rank."""
    plan = sepify.plan(model, X, rank=None, architecture=sepify.Architecture(costlier=True))
    assert len(plan.rewritten) == 2
    return sepify.convert(model, plan=plan, example_inputs=X, **grouped(data))


def require_same(network: Any, original: nn.Module) -> None:
    """The same answers call after call."""
    with torch.no_grad():
        for frame in FRAMES:
            torch.testing.assert_close(network(frame), original(frame), rtol=1e-4, atol=1e-5)


def require_given_state(network: nn.Module, original: nn.Module) -> None:
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, getattr(original, name))


@pytest.mark.parametrize("kind", FOLLOWED)
def test_it_answers_right_call_after_call(kind: type[nn.Module]) -> None:
    model = made(kind)
    small = exactly(model)
    require_given_state(small, model)
    require_same(small, made(kind))


@pytest.mark.parametrize("kind", [Copies, Reassigns, Assigns, Averages, Delays])
def test_so_it_does_when_it_is_solved_on_data(kind: type[nn.Module]) -> None:
    """The state stays as given, and every image is solved for as a first call."""
    model = made(kind)
    frames = torch.randn(32, 1, 4, 12).split(1)
    small = exactly(model, calibration=frames)
    require_given_state(small, model)
    require_same(small, made(kind))
    assert any("not refined" in note for note in small.meta["sepify"].notes)


def test_data_are_refused_where_a_layer_hides_the_state() -> None:
    with pytest.raises(UsageError, match="'second.seen'.*left whole"):
        sepify.convert(made(Inside), example_inputs=X, calibration=FRAMES.flatten(0, 1))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_graph_can_follow_is_refused_by_name(kind: type[nn.Module]) -> None:
    with pytest.raises(CaptureError, match=f"'{REFUSED[kind]}'"):
        sepify.convert(made(kind), rank=None, example_inputs=X)


def test_so_is_what_the_first_call_decides() -> None:
    with pytest.raises(CaptureError, match="'reference'"):
        sepify.convert(made(First), rank=None, example_inputs=X)


@pytest.mark.parametrize("kind", [Copies, Counts, Lists, Looks])
def test_without_inputs_a_write_that_the_graph_loses_is_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(CaptureError, match="writes to .* give example_inputs"):
        sepify.convert(made(kind), rank=None)


def test_what_does_not_matter_is_no_obstacle() -> None:
    captured = capture(made(Looks), (X,))
    assert captured.keeps == ()
    require_same(captured.graph_module, made(Looks))


@pytest.mark.parametrize("kind", [Copies, Averages, Assigns, Delays])
@pytest.mark.parametrize("how", ["traced", "scripted", "exported"])
def test_files_do_alike(kind: type[nn.Module], how: str) -> None:
    model: Any = made(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "exported":
            model = torch.export.export(model, (X,))
        elif how == "scripted":
            model = torch.jit.script(model)
        else:
            model = torch.jit.trace(model, X, check_trace=False)
            model.load_state_dict(made(kind).state_dict())  # whose state the trace has moved
    small = exactly(model)
    require_given_state(small, made(kind))
    require_same(small, made(kind))


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize("kind", [Copies, Assigns, Attribute])
def test_what_is_saved_has_the_given_state(kind: type[nn.Module], suffix: str, tmp_path) -> None:
    small = exactly(made(kind))
    path = tmp_path / f"small{suffix}"
    save_model(small, path, X)
    require_given_state(small, made(kind))
    require_same(load_model(str(path)).module, made(kind))


def test_compiled_code_keeps_nothing_so_it_is_refused() -> None:
    pytest.importorskip("tvm")
    for kind in (Copies, Reassigns):
        with pytest.raises(SepifyError, match="'past'"):
            sepify.compile(made(kind), X)


def test_a_teacher_that_keeps_something_cannot_teach() -> None:
    pytest.importorskip("accelerate")
    small = exactly(made(Averages))
    with pytest.raises(UsageError, match="'calls' in one call and reads it in the next"):
        sepify.distill(small, teacher=made(Averages), data=FRAMES.flatten(0, 1).repeat(4, 1, 1, 1))


def test_neither_width_nor_resolution_goes_with_a_state() -> None:
    with pytest.raises(UsageError, match="state too: .*'past'"):
        sepify.convert(
            made(Copies),
            solver=sepify.Solver(method="svd"),
            example_inputs=X,
            architecture=sepify.Architecture(width=0.5),
        )


def test_training_moves_statistics_and_is_no_state() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).train()
    captured = capture(model, (X,))
    assert captured.keeps == ()
    assert torch.equal(captured.graph_module.get_buffer("1.running_mean"), torch.zeros(8))


def test_a_state_in_training_mode_is_seen() -> None:
    model = made(Copies).train()
    captured = capture(copy.deepcopy(model), (X,))
    assert captured.keeps == ("past", "calls")
    require_given_state(captured.graph_module, model)
