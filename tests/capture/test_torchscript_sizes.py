"""TorchScript that asks for sizes: decided by the example and checked, or kept in the graph."""

from __future__ import annotations

import pytest
import torch
from capture.forms import run, script
from capture.networks import CASES
from torch import Tensor, nn
from torch.nn import functional as F

from sepify.capture import capture
from sepify.graph.comparing import difference

X = torch.randn(2, 3, 16, 16)
BOTH = pytest.mark.parametrize("form", ["traced", "scripted"])


class Taller(nn.Module):
    """Decides by the height, and by the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.size(2) > 12:
            y = F.max_pool2d(y, 2)
        for i in range(x.size(0)):
            y = y + float(i)
        return y


@pytest.mark.parametrize("form", ["scripted", "scripted-frozen"])
def test_decisions_by_shape_are_noted_and_checked(form: str) -> None:
    model = Taller().eval()
    result = capture(script(model, form, (X,)), (X,))
    assert sum("assumed" in note for note in result.notes) == 2
    assert any("`if x.size(2) > 12:`" in note for note in result.notes)
    taller = torch.randn(2, 3, 20, 9)
    assert difference(run(model, (taller,)), run(result.graph_module, (taller,)), True) is None
    with pytest.raises(AssertionError, match="capture again for this shape"):
        result.graph_module(torch.randn(2, 3, 8, 8))
    with pytest.raises(AssertionError, match="captured for inputs with 2 in"):
        result.graph_module(torch.randn(3, 3, 16, 16))
    small = torch.randn(2, 3, 8, 8)
    lower = capture(script(model, form, (X,)), (small,)).graph_module
    assert torch.equal(run(lower, (small,)), run(model, (small,)))


def test_a_batch_size_that_only_shapes_use_is_not_assumed() -> None:
    for name in ("resnet", "shapes", "attention"):
        case = CASES[name]
        result = capture(script(case.model(), "scripted", case.inputs()), case.inputs())
        assert result.notes == ()
        assert not [n for n in result.graph_module.graph.nodes if n.target is torch._assert]


def test_a_loop_over_the_height_is_unrolled_and_checked() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            rows = [y[:, :, 0]]
            for i in range(1, y.size(2)):
                rows.append(rows[-1] * 0.5 + y[:, :, i])
            return torch.stack(rows, 2)

    model = Rows().eval()
    result = capture(script(model, "scripted", (X,)), (X,))
    wider = torch.randn(3, 3, 16, 20)
    assert torch.equal(run(result.graph_module, (wider,)), run(model, (wider,)))
    assert any("assumed 15" in note or "assumed 16" in note for note in result.notes)
    with pytest.raises(AssertionError, match="capture again for this shape"):
        result.graph_module(torch.randn(1, 3, 20, 16))


def test_every_kind_of_arithmetic_on_sizes() -> None:
    class Numbers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            h, w = y.size(2), y.size(3)
            total = abs(h - 40) + abs(h) + round(w / 3) + min(h, 9) + max(h, 9) + 7 // 2 + abs(-3)
            total = total + int(h / 2) + int(bool(h > 3)) - (10 - w) + h % 5 + int(-(h / 3))
            share = float(h) / float(w) + h**0.5
            if not (h < 3 and w > 100):
                y = y * share
            if y.shape == x[:, :1].expand(-1, 4, -1, -1).shape and y.shape[2:] != [3, 3]:
                y = y + torch.tensor([h, w]).sum() + min(3, 4) + max(1.5, 2.5)
            return y + total

    model = Numbers().eval()
    captured = capture(script(model, "scripted", (X,)), (X,)).graph_module
    for shape in ((2, 3, 16, 16), (5, 3, 20, 14)):
        x = torch.randn(shape)
        assert difference(run(model, (x,)), run(captured, (x,)), exact=False) is None


def test_arithmetic_on_sizes_in_a_trace() -> None:
    class Numbers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            h, w = y.shape[2:]
            half = torch.div(h, 2, rounding_mode="floor")
            third = torch.div(w, 3, rounding_mode="trunc")
            up = F.interpolate(y, size=(int(half), int(third)))
            return up * (1 - h) + torch.add(torch.as_tensor(h), w, alpha=2)

    model = Numbers().eval()
    captured = capture(script(model, "traced", (X,)), (X,)).graph_module
    for shape in ((2, 3, 16, 16), (5, 3, 16, 16)):
        x = torch.randn(shape)
        assert difference(run(model, (x,)), run(captured, (x,)), exact=False) is None
