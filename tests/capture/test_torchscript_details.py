"""TorchScript: state, modes, dtypes, sharing, and what the graph looks like."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple, Union

import pytest
import torch
from capture.forms import as_torch_1, conv_targets, run, same_state, script, state_copy
from capture.networks import CASES, Buffers, MobileNet, ResNet, Shared, Upsampler
from torch import Tensor, nn
from torch.nn import functional as F

from sepify.capture import capture
from sepify.errors import CaptureError
from sepify.formats.torchscript_read import load_torchscript
from sepify.graph.comparing import difference

X = torch.randn(2, 3, 16, 16)
BOTH = pytest.mark.parametrize("form", ["traced", "scripted"])


class Optional(nn.Module):
    """None, strings, isinstance, early returns: all known beforehand."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pool = pool
        self.norm: nn.Module | None = None

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        if scale is not None:
            x = x * scale
        assert x.dim() == 4, f"four dimensions, not {x.dim()}"
        if self.norm is not None:
            return self.norm(x)
        if self.pool == "max":
            return F.max_pool2d(x, 2)
        return F.avg_pool2d(x, 2)


class Answer(NamedTuple):
    logits: Tensor
    features: list[Tensor]


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Answer:
        y = self.conv(x)
        return Answer(y.mean((2, 3)), [x, y])


@BOTH
def test_the_file_is_never_changed(form: str) -> None:
    model = CASES["resnet"].model().train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = script(model, form, (X,))
    before = state_copy(scripted)
    state = torch.get_rng_state()
    x = X.clone()
    capture(scripted, (x,))
    assert same_state(scripted, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, X)


@BOTH
def test_training_mode_trains(form: str) -> None:
    torch.manual_seed(0)
    model = MobileNet().train()
    result = capture(script(model, form, (X,)), (X,))
    captured = result.graph_module
    assert any("training mode" in note for note in result.notes)
    assert captured.get_submodule("dropout_0").training
    torch.manual_seed(1)
    expected = model(X)
    torch.manual_seed(1)
    assert torch.equal(captured(X), expected)
    for name in ("blocks.0.1.running_mean", "blocks.0.1.num_batches_tracked"):
        assert torch.equal(captured.state_dict()[name], model.state_dict()[name])
    assert captured.state_dict().keys() == model.state_dict().keys()
    captured.eval()
    assert torch.equal(captured(X), captured(X))
    assert torch.equal(captured(X), model.eval()(X))
    captured(X).sum().backward()
    assert all(p.grad is not None for p in captured.parameters())


@BOTH
def test_requires_grad_and_counters_stay(form: str) -> None:
    model = CASES["resnet"].model()
    model.stem.requires_grad_(False)
    model.layer1[0].bn1.num_batches_tracked.fill_(7)
    captured = capture(script(model, form, (X,)), (X,)).graph_module
    for name, parameter in model.named_parameters():
        assert captured.get_parameter(name).requires_grad == parameter.requires_grad
        assert isinstance(captured.get_parameter(name), nn.Parameter)
    assert captured.get_buffer("layer1.0.bn1.num_batches_tracked").item() == 7


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_stay(form: str, dtype: torch.dtype) -> None:
    model = ResNet().eval().to(dtype)
    x = X.to(dtype)
    captured = capture(script(model, form, (x,)), (x,)).graph_module
    assert {p.dtype for p in captured.parameters()} == {dtype}
    assert torch.equal(run(captured, (x,)), run(model, (x,)))


@BOTH
def test_channels_last_weights_stay_so(form: str) -> None:
    model = ResNet().eval().to(memory_format=torch.channels_last)
    captured = capture(script(model, form, (X,)), (X,)).graph_module
    assert captured.get_submodule("stem").weight.is_contiguous(memory_format=torch.channels_last)


@BOTH
def test_shared_modules_and_parameters(form: str) -> None:
    model = Shared().eval()
    captured = capture(script(model, form, (X,)), (X,)).graph_module
    assert conv_targets(captured) == ["first", "first", "tied"]
    assert captured.get_submodule("tied").bias is captured.get_submodule("first").bias
    assert captured.state_dict().keys() <= model.state_dict().keys()


@BOTH
def test_every_setting_of_a_convolution(form: str) -> None:
    settings = [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (5, 3), "stride": (2, 1), "padding": (2, 1), "bias": False},
        {"kernel_size": 3, "dilation": (2, 1), "groups": 2},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
        {"kernel_size": 2, "padding": "valid"},
        {"kernel_size": 1},
    ]
    for options in settings:
        conv = nn.Conv2d(4, 6, **options).eval()
        x = torch.randn(2, 4, 12, 12)
        found = capture(script(nn.Sequential(conv), form, (x,)), (x,)).graph_module
        made = found.get_submodule("0")
        assert type(made) is nn.Conv2d
        assert repr(made).replace(", padding=valid", "") == repr(conv).replace(
            ", padding=valid", ""
        )
        assert torch.equal(run(found, (x,)), run(conv, (x,)))


def _settings(conv: nn.Module) -> str:
    return repr(conv).replace(", padding=valid", "")  # "valid" is what no padding is


@BOTH
def test_padding_modes_are_a_pad_before_the_convolution(form: str) -> None:
    model = CASES["padding-modes"].model()
    captured = capture(script(model, form, (X,)), (X,)).graph_module
    nodes = [n for n in captured.graph.nodes if n.target is torch._C._nn.pad]
    assert [n.args[2] for n in nodes] == ["reflect", "replicate", "circular"]
    assert captured.get_submodule("reflect").padding == (0, 0)


@BOTH
def test_transposed_convolutions_stay_functional(form: str) -> None:
    captured = capture(script(Upsampler().eval(), form, (X,)), (X,)).graph_module
    assert conv_targets(captured) == ["down", "out"]
    assert captured.get_parameter("up.weight").shape == (6, 6, 2, 2)


@BOTH
def test_batchnorm_and_linear_become_modules(form: str) -> None:
    model = CASES["resnet"].model()
    captured = capture(script(model, form, (X,)), (X,)).graph_module
    for name, module in model.named_modules():
        if isinstance(module, (nn.BatchNorm2d, nn.Linear)):
            made = captured.get_submodule(name)
            assert type(made) is type(module)
            assert repr(made) == repr(module)
    targets = {n.target for n in captured.graph.nodes}
    assert torch.batch_norm not in targets
    assert torch._C._nn.linear not in targets


@BOTH
def test_batchnorm_without_weights_or_momentum(form: str) -> None:
    captured = capture(script(Buffers().eval(), form, (X,)), (X,)).graph_module
    norm = captured.get_submodule("bn")
    assert isinstance(norm, nn.BatchNorm2d)
    assert not norm.affine
    assert norm.momentum is None
    assert not captured.get_submodule("blur").weight.requires_grad  # it was a buffer


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_what_is_known_beforehand_is_folded(pool: str) -> None:
    model = Optional(pool).eval()
    scripted = script(model, "scripted", (X,))
    for inputs in ((X,), (X, torch.rand(1))):
        result = capture(scripted, inputs)
        assert result.notes == ()
        assert torch.equal(run(result.graph_module, inputs), run(model, inputs))


@BOTH
def test_named_tuples_come_out_as_tuples(form: str) -> None:
    model = Named().eval()
    captured = capture(script(model, form, (X,)), (X,)).graph_module
    logits, (first, second) = captured(X)
    expected = model(X)
    assert torch.equal(logits, expected.logits)
    assert torch.equal(first, X)
    assert torch.equal(second, expected.features[1])


def test_a_script_straight_from_memory() -> None:
    model = CASES["resnet"].model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(model)
    captured = capture(scripted, (X,)).graph_module
    assert torch.equal(run(captured, (X,)), run(model, (X,)))
    assert captured.state_dict().keys() == model.state_dict().keys()
    shared = {p.data_ptr() for p in model.parameters()}
    assert shared.isdisjoint(p.data_ptr() for p in captured.parameters())


def test_a_script_inside_a_module_is_left_whole() -> None:
    inner = script(CASES["mobilenet"].model(), "scripted", (X,))
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), inner).eval()
    captured = capture(model, (X,)).graph_module
    assert conv_targets(captured) == ["0"]
    assert torch.equal(run(captured, (X,)), run(model, (X,)))


def test_frozen_weights_can_be_trained() -> None:
    scripted = script(CASES["mobilenet"].model(), "scripted-frozen", (X,))
    result = capture(scripted, (X,))
    assert any("conv_0.weight" in note for note in result.notes)
    assert all(p.requires_grad for p in result.graph_module.parameters())
    result.graph_module(X).sum().backward()
    assert all(p.grad is not None for p in result.graph_module.parameters())
    again = capture(scripted, (X,)).graph_module
    assert again.state_dict().keys() == result.graph_module.state_dict().keys()


def test_writing_in_place_does_not_reach_into_the_weights() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            y = torch.zeros(4, 1, 1)
            y[0] += x.mean()
            y += 1
            return self.conv(x).relu_().add_(y)

    model = Writing().eval()
    captured = capture(script(model, "scripted", (X,)), (X,)).graph_module
    assert captured.get_buffer("seen").item() == 0
    with torch.no_grad():
        for _ in range(3):  # nothing builds up from call to call but what did in the original
            assert torch.equal(captured(X), model(X))
    assert captured.get_buffer("seen").item() == 3
    captured.graph.eliminate_dead_code()
    captured.recompile()
    assert torch.equal(run(captured, (X,)), run(model, (X,)))


def test_an_optimised_script_is_refused_by_its_operator() -> None:
    model = CASES["resnet"].model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        optimised = torch.jit.optimize_for_inference(torch.jit.script(model))
    with pytest.raises(CaptureError, match=r"operator \S+ is (unknown|not supported)"):
        capture(optimised, (X,))


def test_equal_constants_that_freezing_merged_are_separate_weights() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3)
    ).eval()
    for module in (model[0], model[1], model[3]):
        assert isinstance(module, nn.Conv2d)
        nn.init.zeros_(module.weight)
    torch.nn.init.ones_(model[3].bias)
    captured = capture(script(model, "scripted-frozen", (X,)), (X,)).graph_module
    assert conv_targets(captured) == ["conv_0", "conv_1", "conv_2"]
    assert len({p.data_ptr() for p in captured.parameters()}) == len(list(captured.parameters()))
    norm = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()).eval()  # mean and bias are equal zeros
    captured = capture(script(norm, "scripted-frozen", (X,)), (X,)).graph_module
    assert type(captured.get_submodule("bn_0")) is nn.BatchNorm2d
    assert torch.equal(run(captured, (X,)), run(norm, (X,)))


def test_a_union_is_told_apart() -> None:
    class Either(nn.Module):
        def forward(self, x: Union[Tensor, list[Tensor]]) -> Tensor:  # noqa: UP007
            xs = [x] if isinstance(x, Tensor) else x
            return torch.cat(xs, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.either = Either()

        def forward(self, x: Tensor) -> Tensor:
            return self.either(x) + self.either([x[:, :1], x[:, 1:]])

    captured = capture(script(Net().eval(), "scripted", (X,)), (X,)).graph_module
    assert torch.equal(captured(X), X + X)


def test_asking_a_weight_for_its_device_does_not_keep_its_layer_functional() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3, padding=1)
            self.sizes = [1, 2]

        def forward(self, x: Tensor) -> Tensor:
            rows = torch.arange(x.size(2), device=self.conv.weight.device).to(x.dtype)
            columns = torch.ones(x.size(3), device=self.conv.weight.device)
            grid = rows.unsqueeze(1) * columns.unsqueeze(0)
            return x + self.conv(grid[None, None]) if any(self.sizes) else x

    model = Positions().eval()
    captured = capture(script(model, "scripted", (X,)), (X,)).graph_module
    assert conv_targets(captured) == ["conv"]
    taller = torch.randn(3, 3, 20, 9)
    assert torch.equal(run(captured, (taller,)), run(model, (taller,)))


def test_a_file_of_torch_1_with_its_operators(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.bn = nn.BatchNorm2d(4)
            self.up = nn.ConvTranspose2d(4, 4, 2, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = F.gelu(self.bn(self.conv(x)))
            y = F.interpolate(self.up(y), (8, 8), mode="bilinear", align_corners=False)
            return y, torch.div(torch.ones(3, dtype=torch.int64) * x.size(0), 2)

    torch.manual_seed(0)
    model = Net().eval()
    old = as_torch_1(
        script(model, "traced", (X,)),
        {
            r"(_convolution\(.*), True, True\)": r"\1, True)",  # no allow_tf32 before 1.7
            r"(upsample_bilinear2d\(.*, False), None\)": r"\1, None, None)",  # no .vec before 1.5
            r"  _is_full_backward_hook : .*\n": "",
        },
    )
    (tmp_path / "old.pt").write_bytes(old)
    loaded = load_torchscript(tmp_path / "old.pt").module
    assert "_convolution" in str(loaded.inlined_graph)
    captured = capture(loaded, (X,)).graph_module
    assert conv_targets(captured) == ["conv"]
    assert type(captured.get_submodule("bn")) is nn.BatchNorm2d
    for x in (X, torch.randn(5, 3, 16, 16)):
        image, number = run(captured, (x,))
        assert torch.equal(image, run(model, (x,))[0])
        assert number.tolist() == [len(x) // 2] * 3  # integer division was that until 1.6


@BOTH
def test_multi_head_attention(form: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.feed = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return self.feed(tokens + mixed)

    torch.manual_seed(0)
    model = Net().train()  # in inference mode it takes a fast path that is one operator
    result = capture(script(model, form, (X,)), (X,))
    assert conv_targets(result.graph_module) == ["patch"]
    for x in (X, torch.randn(3, 3, 16, 16)):
        assert difference(run(model, (x,)), run(result.graph_module, (x,)), exact=False) is None


@BOTH
def test_channels_last_inputs_and_a_list_of_inputs_by_name(form: str) -> None:
    model = CASES["mixed"].model().to(memory_format=torch.channels_last)
    inputs = tuple(x.contiguous(memory_format=torch.channels_last) for x in CASES["mixed"].inputs())
    captured = capture(script(model, form, inputs), inputs).graph_module
    names = [n.target for n in captured.graph.nodes if n.op == "placeholder"]
    assert names == ["x", "mask"]
    answer = run(captured, inputs)
    assert difference(run(model, inputs), answer, exact=True) is None
    assert answer["left"].is_contiguous(memory_format=torch.channels_last)
