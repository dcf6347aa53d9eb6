"""The value-carrying tracer: what torch.fx alone cannot trace, and its assumptions said."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from capture.forms import conv_targets, run, same_state, state_copy
from capture.networks import CASES
from torch import Tensor, nn
from torch.nn import functional as F

from sepify.capture import capture
from sepify.capture.comparing import difference
from sepify.errors import CaptureError

X = torch.randn(2, 3, 16, 16)


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)


class Padded(Conv):
    """Pads to a multiple of eight; decides by what is missing."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        missing = (8 - height % 8) % 8
        if missing > 0:
            x = F.pad(x, (0, 0, 0, missing))
        y = self.conv(x)
        assert y.shape[-1] == width, "the width stays"
        return y


class Python(Conv):
    """len, range, iteration, star arguments, math, in, dict and tuple outputs."""

    def forward(self, x: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
        y = self.conv(x)
        assert len(x.shape) == 4
        assert x.dtype in (torch.float32, torch.float64)
        parts = [p + i for i, p in enumerate(y.chunk(2, 1))]
        first, *rest = y.split([1, 3], 1)
        grown = torch.cat([*parts, first, *rest], 1).view(*y.shape[:1], -1)
        for i in range(y.size(1)):
            grown = grown * (1.0 + i)
        return {"grown": grown / max(*y.shape[2:]), "parts": tuple(parts)}


class Chooser(nn.Module):
    """Follows the contents of its input, with a convolution inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if float(x.mean()) > 0:
            return self.conv(x), x
        return x, self.conv(x)


class Around(Conv):
    def __init__(self) -> None:
        super().__init__()
        self.chooser = Chooser()
        self.last = nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.chooser(self.conv(x))
        return self.last(a + 2 * b)


@pytest.mark.parametrize("name", ["overwriting", "grid", "shapes"])
def test_cases_that_torch_fx_cannot(name: str) -> None:
    case = CASES[name]
    model = case.model()
    before = state_copy(model)
    result = capture(model, case.inputs())
    assert result.front_end == "value-tracer"
    assert "torch.fx alone does not" in result.reason
    assert conv_targets(result.graph_module) == list(case.convs)
    inputs = case.inputs(5, 16)
    assert difference(run(model, inputs), run(result.graph_module, inputs), True) is None
    assert same_state(model, before)
    assert result.graph_module.state_dict().keys() >= model.state_dict().keys()


@pytest.mark.parametrize("kind", [Padded, Python])
def test_python_on_shapes_resolves(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    result = capture(model, (X,))
    assert result.front_end == "value-tracer"
    for inputs in ((X,), (torch.randn(5, 3, 16, 16),)):
        assert difference(run(model, inputs), run(result.graph_module, inputs), True) is None
    again = copy.deepcopy(result.graph_module)
    assert difference(run(model, (X,)), run(again, (X,)), True) is None


def test_assumptions_are_noted_and_checked() -> None:
    model = Padded().eval()
    result = capture(model, (torch.randn(2, 3, 12, 16),))
    assert any("`if missing > 0:`" in note and "assumed True" in note for note in result.notes)
    same = torch.randn(3, 3, 20, 16)  # as much is missing, in another place
    assert torch.equal(run(result.graph_module, (same,)), run(model, (same,)))
    with pytest.raises(AssertionError, match="capture again for this shape"):
        result.graph_module(torch.randn(2, 3, 16, 16))


def test_what_comes_out_is_an_ordinary_graph_module() -> None:
    model = Padded().eval()
    inputs = (torch.randn(2, 3, 12, 16),)
    graph_module = capture(model, inputs).graph_module
    expected = run(model, inputs)
    assert torch.equal(run(pickle.loads(pickle.dumps(graph_module)), inputs), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(run(torch.jit.script(graph_module), inputs), expected)
        assert torch.equal(run(torch.jit.trace(graph_module, inputs), inputs), expected)
    batch = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(graph_module, inputs, dynamic_shapes=batch).module()
    assert difference(expected, run(exported, inputs), exact=False) is None
    graph_module(*inputs).sum().backward()
    assert graph_module.get_parameter("conv.weight").grad is not None


def test_an_untraceable_layer_is_left_whole_and_said() -> None:
    torch.manual_seed(0)
    model = Around().eval()
    result = capture(model, (X,))
    assert conv_targets(result.graph_module) == ["conv", "last"]
    assert result.notes == (
        "layer 'chooser' cannot be traced and is left whole; "
        "the convolutions inside it (1) stay as they are",
    )
    for x in (X, X + 100, X - 100):  # it still chooses
        assert torch.equal(run(result.graph_module, (x,)), run(model, (x,)))
    assert result.graph_module.get_submodule("chooser") is not model.chooser


def test_a_choice_by_contents_in_the_model_itself_is_refused() -> None:
    class Choice(Conv):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y[y > 0] if int((y > 0).sum()) > 3 else y

    with pytest.raises(CaptureError, match="it chooses by the contents of its input") as caught:
        capture(Choice().eval(), (X,))
    assert "if int((y > 0).sum()) > 3" in str(caught.value)


def test_a_count_of_selected_elements_is_content() -> None:
    class Count(Conv):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            for _ in range(y[y > 0].shape[0] % 3):
                y = y * 2
            return y

    with pytest.raises(CaptureError, match="contents of its input"):
        capture(Count().eval(), (X,))


def test_batchnorm_in_training_keeps_its_statistics() -> None:
    class Net(Padded):
        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(super().forward(x))

    model = Net().train()
    result = capture(model, (X,))
    assert result.front_end == "value-tracer"
    assert torch.equal(result.graph_module.get_buffer("bn.running_mean"), torch.zeros(4))
    assert result.graph_module.get_buffer("bn.num_batches_tracked").item() == 0
    assert torch.equal(result.graph_module(X), model(X))
