"""torch.export: what nothing else can trace, programs and .pt2 files, rebuilt as graph modules."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from capture.forms import conv_targets, run, same_state, state_copy
from capture.networks import CASES, MobileNet, ResNet
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

import sepify
from sepify.capture import capture
from sepify.errors import CaptureError, InputError
from sepify.formats.pt2_read import load_exported
from sepify.graph.comparing import difference

X = torch.randn(2, 3, 16, 16)


class Strict(nn.Module):
    """Asks what a Proxy is not, in the outermost forward: only torch.export can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = MobileNet()

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor and not isinstance(x, torch._subclasses.FakeTensor):
            raise TypeError("a tensor, please")
        return self.body(x)


class Sized(nn.Module):
    """Takes another way for tall images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return F.max_pool2d(y, 2) if x.shape[2] > 20 else y


def export(
    model: nn.Module, inputs: tuple[Tensor, ...], dims: tuple[int, ...] = (0, 2, 3)
) -> ExportedProgram:
    open_dims = tuple({d: Dim.AUTO for d in dims if d < x.dim()} for x in inputs) if dims else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, inputs, dynamic_shapes=open_dims, strict=False)


def seeded(make: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_program_computes_the_same_under_the_original_names(name: str) -> None:
    case = CASES[name]
    model = case.model()
    program = export(model, case.inputs())
    before = state_copy(model)
    result = capture(program)
    assert result.front_end == "torch-export"
    assert conv_targets(result.graph_module) == list(case.convs)
    assert same_state(model, before)  # which the program shares
    for batch, side in ((2, 16), (5, 16), (1, 16)):
        inputs = case.inputs(batch, side)
        assert difference(run(model, inputs), run(result.graph_module, inputs), True) is None


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "inception", "squeeze-excite", "mixed"])
def test_any_image_size_and_the_same_state_dict(name: str) -> None:
    case = CASES[name]
    model = case.model()
    graph_module = capture(export(model, case.inputs())).graph_module
    inputs = case.inputs(3, 24)
    assert difference(run(model, inputs), run(graph_module, inputs), True) is None
    state, expected = graph_module.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_a_model_that_only_torch_export_can_follow() -> None:
    model = seeded(Strict).eval()
    before = state_copy(model)
    result = capture(model, (X,))
    assert result.front_end == "torch-export"
    assert "a tensor, please" in result.reason
    assert conv_targets(result.graph_module) == [
        *("body.blocks.0.0", "body.blocks.0.3", "body.blocks.1.0", "body.blocks.1.3")
    ]
    for shape in ((2, 3, 16, 16), (5, 3, 16, 16), (1, 3, 24, 20)):
        x = torch.randn(shape)
        assert torch.equal(run(result.graph_module, (x,)), run(model, (x,)))
    assert same_state(model, before)
    assert result.graph_module.state_dict().keys() == model.state_dict().keys()


def test_modes_can_be_changed_and_layers_keep_their_names() -> None:
    model = seeded(Strict).eval()
    captured = capture(model, (X,)).graph_module
    assert type(captured.get_submodule("body.dropout")) is nn.Dropout
    assert not any(module.training for module in captured.modules())
    captured.train()
    model.train()
    for _ in range(2):
        torch.manual_seed(1)
        expected = model(X)
        torch.manual_seed(1)
        assert torch.equal(captured(X), expected)
    state, expected = captured.state_dict(), model.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert torch.equal(run(captured.eval(), (X,)), run(model.eval(), (X,)))
    captured(X).sum().backward()
    assert all(p.grad is not None for p in captured.parameters())


def test_training_mode_is_captured_as_it_is() -> None:
    model = seeded(Strict).train()
    result = capture(model, (X,))
    assert any("training mode" in note for note in result.notes)
    assert result.graph_module.get_submodule("body.dropout").training
    torch.manual_seed(1)
    expected = model(X)
    torch.manual_seed(1)
    assert torch.equal(result.graph_module(X), expected)
    assert result.graph_module.get_buffer("body.blocks.0.1.num_batches_tracked").item() == 1


def test_what_comes_out_is_an_ordinary_graph_module() -> None:
    model = seeded(Strict).eval()
    graph_module = capture(model, (X,)).graph_module
    expected = run(model, (X,))
    assert torch.equal(run(pickle.loads(pickle.dumps(graph_module)), (X,)), expected)
    assert torch.equal(run(copy.deepcopy(graph_module), (X,)), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(run(torch.jit.script(graph_module), (X,)), expected)
        assert torch.equal(run(torch.jit.trace(graph_module, (X,)), (X,)), expected)
    again = export(graph_module, (X,), dims=(0,)).module()
    assert difference(expected, run(again, (X,)), exact=False) is None
    assert capture(graph_module, (X,)).front_end == "graph-module"


def test_a_decision_by_size_is_noted_and_checked() -> None:
    model = seeded(Sized).eval()
    result = capture(export(model, (X,)))
    assert any("x.size(2) <= 20" in note for note in result.notes)
    assert torch.equal(run(result.graph_module, (X[..., :9],)), run(model, (X[..., :9],)))
    with pytest.raises(AssertionError, match="capture again for this shape"):
        result.graph_module(torch.randn(1, 3, 24, 16))


def test_sizes_that_the_program_fixes_are_noted_and_checked() -> None:
    model = CASES["resnet"].model()
    result = capture(export(model, (X,), dims=()))
    assert result.notes == (
        "assumed, as for the example input, that x.size(0) == 2, x.size(2) == 16, x.size(3) == 16",
    )
    with pytest.raises(AssertionError, match=r"x\.size\(0\) == 2"):
        result.graph_module(torch.randn(3, 3, 16, 16))


def test_a_model_that_treats_sizes_otherwise_while_exported_is_captured_for_one_size() -> None:
    class Sly(Strict):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y * x.shape[0] if isinstance(x.shape[0], int) else y

    model = seeded(Sly).eval()
    result = capture(model, (X,))
    assert result.front_end == "torch-export"
    assert torch.equal(run(result.graph_module, (X,)), run(model, (X,)))
    with pytest.raises(AssertionError, match=r"x\.size\(0\) == 2"):
        result.graph_module(torch.randn(3, 3, 16, 16))


def test_what_no_front_end_can_follow_is_told_with_the_line() -> None:
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y if bool(y.sum() > 0) else -y

    with pytest.raises(CaptureError) as caught:
        capture(Choice().eval(), (X,))
    assert "`return y if bool(y.sum() > 0) else -y`" in str(caught.value)
    assert "torch.export fails" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CaptureError, match="with example_inputs, two more front ends can try"):
        capture(Choice().eval())


def test_regions_without_gradients_and_dict_outputs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor, *more: Tensor, scale: float = 2.0) -> dict[str, object]:
            with torch.no_grad():
                x = x * scale
            for other in more:
                x = x + other
            y = self.conv(x)
            with torch.autocast("cpu", enabled=False):
                z = y.float() + 1
            return {"y": y, "rest": [z, {"height": y.shape[2] * 0.5}]}

    model = Net().eval()
    result = capture(export(model, (X, X, X), dims=()))
    answer = run(result.graph_module, (X, X, X))
    assert difference(run(model, (X, X, X)), answer, exact=True) is None
    assert isinstance(answer["rest"], list)
    assert answer["rest"][1]["height"] == 7.0
    assert any("gradients off" in note for note in result.notes)
    direct = capture(model, (X, X, X))
    assert difference(answer, run(direct.graph_module, (X, X, X)), exact=True) is None


def test_a_branch_inside_the_program_is_refused() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return torch.cond(y.sum() > 0, lambda y: y * 2, lambda y: y - 1, (y,))

    with pytest.raises(CaptureError, match=r"operator 'cond', a branch, a loop"):
        capture(export(Net().eval(), (X,), dims=()))


def test_a_decomposed_program() -> None:
    model = CASES["resnet"].model()
    program = export(model, (X,)).run_decompositions()
    result = capture(program)
    assert conv_targets(result.graph_module) == list(CASES["resnet"].convs)
    x = torch.randn(3, 3, 24, 16)
    assert difference(run(model, (x,)), run(result.graph_module, (x,)), exact=False) is None
    assert result.graph_module.state_dict().keys() >= dict(model.named_parameters()).keys()


def test_a_shared_module_without_state_of_its_own_second_name() -> None:
    """A dropout's layer is named by the call, and nothing else may live at the shared module's
    second name."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Dropout(0.5))
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    model = Twice().eval()
    captured = capture(export(model, (X,))).graph_module
    assert torch.equal(run(captured, (X,)), run(model, (X,)))
    assert [type(m) for m in captured.modules()].count(nn.Dropout) == 2


def test_a_buffer_that_a_program_writes_is_written() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return self.conv(x) * self.seen

    for decomposed in (False, True):
        model = Counting().eval()
        program = export(model, (X,))
        program = program.run_decompositions() if decomposed else program
        captured = capture(program).graph_module
        assert captured.get_buffer("seen").item() == 0
        with torch.no_grad():
            answers = [captured(X) for _ in range(2)]
            assert program.state_dict["seen"].item() == 0
            assert all(torch.equal(answer, model(X)) for answer in answers)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((X, X), r"2 example inputs were given but the exported program takes \(x\)"),
        ((X[:, :1],), r"float32 \(2, 1, 16, 16\).*exported for \(any x 3 x any x any\)"),
    ],
)
def test_wrong_inputs_of_a_program(inputs: tuple[Tensor, ...], expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        capture(export(ResNet().eval(), (X,)), inputs)
    assert "\n" not in str(caught.value)


def test_a_file_converts_like_the_model(tmp_path: Path) -> None:
    model = CASES["resnet"].model()
    torch.export.save(export(model, (X,)), tmp_path / "net.pt2")
    program = load_exported(tmp_path / "net.pt2")
    result = capture(program)
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 16, 16)
        assert torch.equal(run(result.graph_module, (x,)), run(model, (x,)))
    assert all(isinstance(p, nn.Parameter) for p in result.graph_module.parameters())
    small = sepify.convert(program, example_inputs=X, solver=sepify.Solver(method="svd"))
    assert "layer1.0.conv1.depthwise.weight" in small.state_dict()
    assert small.meta["sepify"].front_end.startswith("torch-export")
