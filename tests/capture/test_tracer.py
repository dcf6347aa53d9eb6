"""The value-carrying tracer: what torch.fx alone cannot trace, and its assumptions said."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from capture.forms import conv_targets, run, same_state, state_copy
from capture.networks import CASES
from nets import rewritten
from torch import Tensor, nn
from torch.fx.proxy import TraceError
from torch.nn import functional as F

from sepify.capture import capture
from sepify.capture.frames import running_line
from sepify.capture.symbolic import split_arguments
from sepify.capture.tracer import ValueTracer
from sepify.errors import CaptureError
from sepify.graph.comparing import difference
from sepify.passes.out_of_place import MakeOutOfPlace

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
    result = capture(model, (X,))
    assert any("`if missing > 0:`" in note and "assumed False" in note for note in result.notes)
    same = torch.randn(3, 3, 24, 16)  # nothing is missing, in another place
    assert torch.equal(run(result.graph_module, (same,)), run(model, (same,)))
    with pytest.raises(AssertionError, match="capture again for this shape"):
        result.graph_module(torch.randn(2, 3, 12, 16))


@pytest.mark.parametrize("height", [12, 16, 20, 24])
def test_a_check_is_dropped_where_both_ways_are_alike(height: int) -> None:
    model = Padded().eval()
    result = capture(model, (torch.randn(2, 3, 12, 16),))  # a padding of nothing does nothing
    assert any("`if missing > 0:` answer alike" in note for note in result.notes)
    x = torch.randn(3, 3, height, 16)
    assert torch.equal(run(result.graph_module, (x,)), run(model, (x,)))


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
        "of the convolutions inside it (1) only the weights are seen",
    )
    for x in (X, X + 100, X - 100):  # it still chooses
        assert torch.equal(run(result.graph_module, (x,)), run(model, (x,)))
    assert result.graph_module.get_submodule("chooser") is not model.chooser


def test_untraceable_layers_of_one_kind_are_found_in_one_trace() -> None:
    model = nn.Sequential(Around(), nn.Conv2d(2, 3, 1), nn.Sequential(Around()))
    tracer = ValueTracer(split_arguments(model, 1), (X,), frozenset())
    with pytest.raises(TraceError, match="layers of it cannot be traced"):
        tracer.trace(model)
    assert tracer.untraceable == {"0.chooser", "2.0.chooser"}
    assert torch.equal(run(capture(model, (X,)).graph_module, (X,)), run(model, (X,)))


def test_tensors_are_made_of_sizes() -> None:
    class Scaled(Conv):
        def forward(self, x: Tensor) -> Tensor:
            batch, channels, height, width = self.conv(x).shape
            root = torch.sqrt(torch.tensor(channels * height))
            sizes = torch.tensor([[height, width], [1, 2]], dtype=x.dtype, device=x.device)
            image = torch.as_tensor(x.shape[2:])
            return self.conv(x) / root * sizes.prod() + torch.as_tensor(batch / 2) - image.sum()

    model = Scaled().eval()
    result = capture(model, (X,))
    assert result.front_end == "value-tracer"
    assert result.notes == ()
    again = pickle.loads(pickle.dumps(result.graph_module))
    for x in (X, torch.randn(5, 3, 9, 12)):
        for captured in (result.graph_module, again, torch.jit.script(result.graph_module)):
            assert torch.equal(run(captured, (x,)), run(model, (x,)))


def test_a_package_beside_torch_is_the_users_code() -> None:
    beside = Path(torch.__file__).parent.with_name("torchvision_of_mine") / "raft.py"
    code = compile("running_line()", str(beside), "eval")
    assert eval(code, {"running_line": running_line}).startswith(f"{beside}, line 1")


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


def test_a_decorated_forward_with_keywords() -> None:
    def decorated(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(function)
        def forward(self: nn.Module, *args: Tensor, **kwargs: object) -> Tensor:
            kwargs.pop("verbose", None)
            return function(self, *args, **kwargs)

        return forward

    class Net(Conv):
        @decorated
        def forward(
            self, x: Tensor, mask: Tensor | None = None, *, scale: float = 2.0, **rest: object
        ) -> Tensor:
            y = self.conv(x) * scale
            return y if mask is None else y * mask

    model = Net().eval()
    for inputs in ((X,), (X, torch.rand(2, 1, 16, 16))):
        result = capture(model, inputs)
        assert result.front_end == "symbolic-trace"
        assert "argument 'scale' is fixed at 2.0" in result.notes
        assert torch.equal(run(result.graph_module, inputs), run(model, inputs))
    captured = capture(model).graph_module
    assert [n.target for n in captured.graph.nodes if n.op == "placeholder"] == ["x"]


def test_a_forward_of_one_instance() -> None:
    inner = Conv()
    inner.forward = functools.partial(_three, inner)  # type: ignore[method-assign]
    assert torch.equal(run(capture(inner, (X,)).graph_module, (X,)), run(inner, (X,)))


def _three(model: Conv, x: Tensor) -> Tensor:
    return model.conv(x) * 3


def test_modules_made_on_the_way() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))

        def forward(self, x: Tensor) -> Tensor:
            return nn.Softmax(1)(self.layers[1:](self.layers[:1](x)))

    model = Net().eval()
    result = capture(model)
    assert conv_targets(result.graph_module) == ["layers.0", "layers.2"]
    assert torch.equal(run(result.graph_module, (X,)), run(model, (X,)))


def test_tensors_made_from_lists_of_sizes() -> None:
    class Net(Conv):
        def forward(self, x: Tensor) -> Tensor:
            b, _, h, w = x.shape
            mask = torch.ones((b, 1, h, w), device=x.device)
            empty = torch.empty([b, 0, h // 2, w // 2])
            return self.conv(x) * mask + empty.sum()

    model = Net().eval()
    result = capture(model, (X,))
    for shape in ((5, 3, 16, 16), (1, 3, 20, 24)):
        x = torch.randn(shape)
        assert torch.equal(run(result.graph_module, (x,)), run(model, (x,)))


def test_hooks_that_matter_are_traced_where_they_can_be() -> None:
    class Collecting(nn.Module):
        """As transformers collects hidden states: by hooks on its own layers."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Padded(), nn.Sequential(nn.ReLU())
            self.first.register_forward_hook(lambda module, args, output: output * 2)
            self.first.conv.register_forward_hook(lambda module, args, output: None)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model = Collecting().eval()
    result = capture(model, (X,))
    assert torch.equal(run(result.graph_module, (X,)), run(model, (X,)))
    assert any("hooks are part of the captured graph" in n and "'first'" in n for n in result.notes)
    assert any("dropped from 'first.conv'" in note for note in result.notes)
    assert not any(m._forward_hooks for m in result.graph_module.modules())


def test_a_convolution_with_its_padding_inside_is_one() -> None:
    class Same(nn.Conv2d):
        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            self.static_padding = nn.ZeroPad2d(1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.static_padding(x)
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)

    model = nn.Sequential(Same(3, 4, 3), nn.ReLU()).eval()
    captured = capture(model, (X,)).graph_module
    assert conv_targets(captured) == ["0"]
    assert type(captured.get_submodule("0")) is nn.Conv2d
    assert type(captured.get_submodule("0_static_padding")) is nn.ZeroPad2d
    assert captured.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(run(captured, (X,)), run(model, (X,)))


def test_assignments_to_parts() -> None:
    class Net(Conv):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y[..., : y.shape[-1] // 2] = 0.5
            y[:, 0, None] = x[:, :1] * 2
            y[y > 1] = 1.0
            y[:, 1] += 1
            with torch.autocast(device_type=y.device.type, enabled=False):
                return y + 1

    model = Net().eval()
    captured = capture(model, (X,)).graph_module
    x = torch.randn(3, 3, 16, 20)
    assert torch.equal(run(captured, (x,)), run(model, (x,)))
    captured.graph.eliminate_dead_code()
    captured.recompile()
    assert torch.equal(run(rewritten(captured, MakeOutOfPlace()), (x,)), run(model, (x,)))


def test_a_basic_assignment_survives_pickling() -> None:
    class Net(Conv):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y[:, 0] = x[:, 0]
            return y

    model = Net().eval()
    captured = capture(model, (X,)).graph_module
    assert torch.equal(run(pickle.loads(pickle.dumps(captured)), (X,)), run(model, (X,)))


def test_a_module_that_says_how_it_is_copied() -> None:
    copies = []  # not in the class, which is put back

    class Own(Padded):
        def __deepcopy__(self, memo: dict[int, object]) -> Own:
            copies.append(self)
            new = Own()
            memo[id(self)] = new
            new.load_state_dict(self.state_dict())
            return new.eval()

    model = nn.Sequential(Own(), nn.ReLU()).eval()
    assert torch.equal(run(capture(model, (X,)).graph_module, (X,)), model(X).detach())
    assert copies
