"""Float networks that are ready to be quantised hold layers of torch's quantisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional, QFunctional
from torch.ao.quantization import DeQuantStub, QuantStub, QuantWrapper

import sepify
from sepify.capture import capture
from sepify.errors import CaptureError


class Marked(nn.Module):
    """As torchvision's `quantization` networks before they are prepared."""

    def __init__(self) -> None:
        super().__init__()
        self.begin, self.end = QuantStub(), DeQuantStub()
        self.first, self.second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.plus = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.begin(x))
        return self.end(self.plus.add_relu(y, self.second(y)))


@pytest.mark.parametrize("form", ["module", "wrapped", "script"])
def test_they_are_captured_and_converted(form):
    torch.manual_seed(0)
    model: nn.Module = Marked().eval()
    if form == "wrapped":
        model = QuantWrapper(model).eval()
    x = torch.randn(2, 3, 8, 8)
    want = model(x)
    if form == "script":
        model = torch.jit.script(model)
    torch.testing.assert_close(capture(model, (x,)).graph_module(x), want)
    small = sepify.convert(model, example_inputs=x, rank=1, solver=sepify.Solver(method="svd"))
    assert small(x).shape == want.shape
    assert len(small.meta["sepify"].plan.rewritten) == 2


def test_the_quantised_ones_are_still_refused():
    with pytest.raises(CaptureError, match="'0' is quantised"):
        capture(nn.Sequential(QFunctional()), None)
