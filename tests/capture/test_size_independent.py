"""Graphs for more sizes than the example's: numbers that stay variables, models that remember."""

from __future__ import annotations

import builtins
import copy
import math
import pickle
import warnings

import pytest
import torch
from capture.forms import half_of, run
from torch import Tensor, nn
from torch.nn import functional as F

from sepify.capture import capture

X = torch.randn(2, 3, 16, 16)
SIZES = ((2, 3, 16, 16), (1, 3, 16, 16), (5, 3, 24, 40))


class Rounding(nn.Module):
    """Fixes sizes without need: int, float, min and max of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[-2]), int(math.ceil(x.shape[-1] / 3) * 3)
        y = F.interpolate(self.conv(x), size=(height, width))
        assert isinstance(3, int)
        assert issubclass(bool, int)
        assert float("2") == max(1.0, 2.0)
        scale = float(min(height, 9)) / max(width, 2)
        return y * scale + int("3") + int(y.shape[1] * 0.5)


class Elsewhere(nn.Module):
    """Rounds in a function of another file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x), size=half_of(x))


class Detector(nn.Module):
    """Keeps the anchors of the last size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.shape: tuple[int, ...] | None = None
        self.anchors = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.shape != y.shape:
            self.shape = y.shape
            self.anchors = torch.arange(y.shape[2], device=x.device).view(-1, 1) / y.shape[3]
        return y + self.anchors


class Other(Detector):
    """Answers otherwise where it remembers."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y * 2 if x.shape[0] == 2 else y


def same_at(model: nn.Module, graph_module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert torch.equal(run(graph_module, (x,)), run(copy.deepcopy(model), (x,)))


@pytest.mark.parametrize("shape", SIZES)
def test_int_float_min_and_max_of_sizes(shape: tuple[int, ...]) -> None:
    model = Rounding().eval()
    before = (builtins.int, builtins.min, dict(globals()).get("int"))
    result = capture(model, (X,))
    assert result.front_end == "value-tracer"
    same_at(model, result.graph_module, shape)
    same_at(model, pickle.loads(pickle.dumps(result.graph_module)), shape)
    assert (builtins.int, builtins.min, globals().get("int")) == before


@pytest.mark.parametrize("shape", SIZES)
def test_numbers_that_a_helper_of_the_same_package_rounds(shape: tuple[int, ...]) -> None:
    model = Elsewhere().eval()
    result = capture(model, (X,))
    assert not any("assumed" in note for note in result.notes)
    same_at(model, result.graph_module, shape)


@pytest.mark.parametrize("remembered", [None, (2, 3, 16, 16), (7, 3, 8, 8), (5, 3, 24, 40)])
@pytest.mark.parametrize("shape", SIZES)
def test_a_model_that_remembers_the_last_size(
    shape: tuple[int, ...], remembered: tuple[int, ...] | None
) -> None:
    model = Detector().eval()
    if remembered is not None:
        model(torch.randn(remembered))
    kept = model.shape
    result = capture(model, (X,))
    assert model.shape == kept
    same_at(model, result.graph_module, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same_at(model, torch.jit.script(result.graph_module), shape)


class Coarse(Detector):
    """Takes multiples of 64 pixels alone."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3] % 64:
            raise ValueError("not a multiple of 64")
        return super().forward(x)


def test_a_model_that_remembers_and_wants_multiples() -> None:
    """Twice the size is tried before the graph is said to take any."""
    model = Coarse().eval()
    x = torch.randn(2, 3, 64, 64)
    model(x)
    graph_module = capture(model, (x,)).graph_module
    for size in (64, 128, 192):
        same_at(model, graph_module, (3, 3, size, size))


def test_what_was_found_not_to_matter_is_said() -> None:
    model = Detector().eval()
    model(X)
    notes = capture(model, (X,)).notes
    assert any("`if self.shape != y.shape:` answer alike" in note for note in notes)


def test_a_choice_that_matters_stays_a_check() -> None:
    model = Other().eval()
    model(X)
    result = capture(model, (X,))
    assert torch.equal(run(result.graph_module, (X,)), run(copy.deepcopy(model), (X,)))
    with pytest.raises(AssertionError, match="capture again for this shape"):
        result.graph_module(torch.randn(3, 3, 16, 16))


class Trained(Detector):
    """Has statistics, which a run in training mode moves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x))


def test_no_trial_moves_the_statistics_of_a_training_model() -> None:
    model = Trained().train()
    model(X)
    before = copy.deepcopy(model.state_dict())
    graph_module = capture(model, (X,)).graph_module
    for state in (model.state_dict(), graph_module.state_dict()):
        for name, tensor in before.items():
            assert torch.equal(state[name], tensor), name
    same_at(model, graph_module, (3, 3, 8, 8))
