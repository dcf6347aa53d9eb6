"""nn.Module and GraphModule: captured bit for bit, and the model that was given left alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from capture.forms import conv_targets, run, same_state, state_copy
from capture.networks import CASES, Functional, MobileNet, ResNet, Shared
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sepify.capture import capture
from sepify.errors import CaptureError
from sepify.graph import inputs
from sepify.graph.comparing import difference

# torch.fx knows no slice assignment, no float() and no min() of a size
TRACEABLE = sorted(set(CASES) - {"overwriting", "grid", "shapes"})


@pytest.mark.parametrize("name", TRACEABLE)
def test_captured_exactly_under_the_original_names(name: str) -> None:
    case = CASES[name]
    model = case.model()
    before = state_copy(model)
    result = capture(model, case.inputs())
    assert result.front_end == "symbolic-trace"
    assert conv_targets(result.graph_module) == list(case.convs)
    for batch, side in ((2, 16), (5, 24)):
        inputs = case.inputs(batch, side)
        assert difference(run(model, inputs), run(result.graph_module, inputs), True) is None
    assert same_state(model, before)


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "inception"])
def test_no_example_inputs_are_needed(name: str) -> None:
    case = CASES[name]
    model = case.model()
    graph_module = capture(model).graph_module
    assert difference(run(model, case.inputs()), run(graph_module, case.inputs()), True) is None
    assert graph_module.state_dict().keys() == model.state_dict().keys()


def test_nothing_is_shared_with_the_model() -> None:
    model = CASES["resnet"].model()
    graph_module = capture(model).graph_module
    addresses = {p.data_ptr() for p in model.state_dict().values()}
    assert addresses.isdisjoint(p.data_ptr() for p in graph_module.state_dict().values())
    given = fx.symbolic_trace(model)
    again = capture(given)
    assert again.front_end == "graph-module"
    assert again.graph_module is not given
    addresses = {p.data_ptr() for p in given.state_dict().values()}
    assert addresses.isdisjoint(p.data_ptr() for p in again.graph_module.state_dict().values())


def test_a_shared_convolution_is_one_module_and_two_nodes() -> None:
    graph_module = capture(Shared().eval()).graph_module
    assert conv_targets(graph_module) == ["first", "first", "tied"]
    assert graph_module.get_submodule("tied").bias is graph_module.get_submodule("first").bias


def test_requires_grad_dtype_and_modes_stay() -> None:
    model = ResNet().double().eval()
    model.stem.requires_grad_(False)
    model.layer1[0].bn1.train()
    result = capture(model)
    kept = result.graph_module
    for name, parameter in model.named_parameters():
        copied = kept.get_parameter(name)
        assert (copied.dtype, copied.requires_grad) == (parameter.dtype, parameter.requires_grad)
    assert kept.get_submodule("layer1.0.bn1").training
    assert not kept.get_submodule("layer1.0.bn2").training
    assert not kept.training
    assert any("'layer1.0.bn1' is in training mode" in note for note in result.notes)


def test_training_mode_is_captured_and_said() -> None:
    torch.manual_seed(0)
    model = MobileNet().train()
    before = state_copy(model)
    result = capture(model, CASES["mobilenet"].inputs())  # runs with dropout, and compares
    assert same_state(model, before)
    assert result.graph_module.training
    assert any("training mode" in note for note in result.notes)
    result.graph_module.eval()
    inputs = CASES["mobilenet"].inputs()
    assert difference(run(model.eval(), inputs), run(result.graph_module, inputs), True) is None


def test_the_random_state_and_the_inputs_are_left_alone() -> None:
    class Rude(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return self.conv(F.dropout(x))

    x = torch.ones(1, 3, 8, 8)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    model = Rude().eval()
    torch.set_rng_state(state)
    capture(model, (x,))
    assert torch.equal(x, torch.ones(1, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)


def test_functional_convolutions_become_modules_and_computed_weights_stay() -> None:
    model = Functional().eval()
    result = capture(model)
    kernel = result.graph_module.get_submodule("kernel")
    assert type(kernel) is nn.Conv2d
    assert torch.equal(kernel.weight, model.kernel)
    assert torch.equal(kernel.bias, model.offset)
    assert any("kernel -> kernel.weight" in note for note in result.notes)
    assert "other" in result.graph_module.state_dict()  # the weight of the third is computed


def test_a_weight_used_with_two_strides_stays_functional() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight, stride=2) + F.conv2d(x, self.weight)[:, :, ::2, ::2]

    model = Twice()
    graph_module = capture(model, (torch.randn(1, 3, 9, 9),)).graph_module
    assert conv_targets(graph_module) == []
    assert graph_module.state_dict().keys() == {"weight"}


def test_a_bare_convolution_and_a_subclass() -> None:
    class OnlyNamed(nn.Conv2d):
        pass

    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            if self.weight.shape[1] > 1:
                weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return self._conv_forward(x, weight, self.bias)

    x = torch.randn(2, 3, 8, 8)
    bare = capture(nn.Conv2d(3, 4, 3), (x,)).graph_module
    assert conv_targets(bare) == ["conv_0"]
    model = nn.Sequential(OnlyNamed(3, 4, 3), Standardised(4, 4, 3))
    graph_module = capture(model, (x,)).graph_module
    assert conv_targets(graph_module) == ["0"]
    assert type(graph_module.get_submodule("0")) is OnlyNamed
    assert torch.equal(graph_module(x), model(x))


@pytest.mark.parametrize("training", [False, True])
def test_a_batchnorm_subclass_that_is_traced_through_is_a_batchnorm(training: bool) -> None:
    class NormAct(nn.BatchNorm2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.act = nn.PReLU()

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                assert self.num_batches_tracked is not None
                self.num_batches_tracked.add_(1)
            mean, var = self.running_mean, self.running_var
            y = F.batch_norm(x, mean, var, self.weight, self.bias, self.training, 0.2, self.eps)
            return self.act(y)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), NormAct(4)).train(training)
    x = torch.randn(2, 3, 8, 8)
    captured = capture(model, (x,)).graph_module
    assert type(captured.get_submodule("1")) is nn.BatchNorm2d
    assert captured.get_submodule("1").momentum == 0.2
    for _ in range(2):
        assert torch.equal(captured(x), model(x))
    state, expected = captured.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_arguments_with_defaults_are_fixed_and_said() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor, mask: Tensor | None = None, double: bool = False) -> Tensor:
            y = self.conv(x)
            if double:
                y = y * 2
            return y if mask is None else y * mask

    model = Optional()
    x, mask = torch.randn(2, 3, 8, 8), torch.rand(2, 1, 8, 8)
    result = capture(model, (x,))
    assert torch.equal(result.graph_module(x), model(x))
    assert result.notes[0] == "argument 'mask' is fixed at None"
    with_mask = capture(model, (x, mask)).graph_module
    assert torch.equal(with_mask(x, mask), model(x, mask))
    pickle.loads(pickle.dumps(result.graph_module))
    torch.jit.script(result.graph_module)


def test_variadic_arguments() -> None:
    class Variadic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor, *others: Tensor, **options: Tensor) -> Tensor:
            for other in others:
                x = x + other
            return self.conv(x)

    model, x = Variadic(), torch.randn(1, 3, 8, 8)
    assert torch.equal(capture(model, (x, x, x)).graph_module(x, x, x), model(x, x, x))
    assert torch.equal(capture(model, (x,)).graph_module(x), model(x))


def test_hooks_are_dropped_and_said() -> None:
    model = CASES["resnet"].model()
    seen: list[Tensor] = []
    model.stem.register_forward_hook(lambda module, args, output: seen.append(output))
    x = CASES["resnet"].inputs()
    result = capture(model, x)
    seen.clear()
    result.graph_module(*x)
    assert seen == []
    assert model.stem._forward_hooks
    assert any("hooks" in note and "'stem'" in note for note in result.notes)
    pickle.loads(pickle.dumps(result.graph_module))


def test_a_hook_that_matters_is_refused() -> None:
    model = CASES["resnet"].model()
    model.stem.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(CaptureError, match="relies on hooks"):
        capture(model, CASES["resnet"].inputs())


@pytest.mark.parametrize("norm", ["weight", "old weight", "spectral", "old spectral"])
def test_computed_weights_of_known_kinds_are_folded(norm: str) -> None:
    make = {
        "weight": nn.utils.parametrizations.weight_norm,
        "old weight": nn.utils.weight_norm,
        "spectral": nn.utils.parametrizations.spectral_norm,
        "old spectral": nn.utils.spectral_norm,
    }[norm]
    with pytest.warns(FutureWarning) if norm == "old weight" else _nothing():
        model = nn.Sequential(make(nn.Conv2d(3, 4, 3)), nn.ReLU())
    x = torch.randn(2, 3, 8, 8)
    model(x)  # leaves a weight with a history behind
    model.eval()
    before = state_copy(model)
    result = capture(model, (x,))
    assert result.graph_module.state_dict().keys() == {"0.weight", "0.bias"}
    assert type(result.graph_module.get_submodule("0")) is nn.Conv2d
    assert any("folded: '0'" in note for note in result.notes)
    assert same_state(model, before)


def test_a_graph_module_keeps_its_meta_and_dead_code() -> None:
    given = fx.symbolic_trace(CASES["inception"].model())
    given.meta["note"] = "mine"
    with given.graph.inserting_after(next(iter(given.graph.nodes))) as _:
        given.graph.call_function(torch.relu, (next(iter(given.graph.nodes)),))
    given.recompile()
    result = capture(given, CASES["inception"].inputs())
    assert result.graph_module.meta["note"] == "mine"
    for kept, node in zip(result.graph_module.graph.nodes, given.graph.nodes, strict=True):
        assert (kept.op, kept.name, kept.target) == (node.op, node.name, node.target)


def test_a_captured_module_is_captured_again() -> None:
    case = CASES["resnet"]
    once = capture(case.model(), case.inputs()).graph_module
    twice = capture(once, case.inputs()).graph_module
    assert torch.equal(run(once, case.inputs()), run(twice, case.inputs()))
    assert torch.equal(run(copy.deepcopy(twice), case.inputs()), run(twice, case.inputs()))


class Replacing(nn.Module):
    """Puts another tensor in the place of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("shift", torch.rand(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) * self.scale
        self.shift = torch.full((4, 1, 1), 2.0)
        return y * self.scale + self.shift


def test_a_buffer_that_is_replaced_on_the_way() -> None:
    model, x = Replacing(), torch.rand(2, 3, 8, 8)
    graph_module = capture(model, (x,)).graph_module
    with torch.no_grad():
        assert torch.equal(run(graph_module, (x,)), run(copy.deepcopy(model), (x,)))
    scales = [node for node in graph_module.graph.nodes if node.target == "scale"]
    assert len(scales) == 1


def test_a_run_of_a_graph_module_leaves_it_as_it_was() -> None:
    graph_module = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).train()
    before = copy.deepcopy(graph_module.state_dict())
    x, code = torch.rand(2, 3, 8, 8), graph_module.code
    given = inputs.run(graph_module, (x,))
    for name, tensor in before.items():
        assert torch.equal(graph_module.state_dict()[name], tensor), name
    assert graph_module.code == code
    assert graph_module.graph.owning_module is graph_module
    assert torch.equal(given, graph_module(x))


class _nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...
