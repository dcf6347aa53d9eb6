"""compile() on small networks: right against torch, and clear about what it refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sepify.compiling import compile
from sepify.compiling import pipeline as compiling_pipeline
from sepify.errors import CompileError, DependencyError, InputError, UsageError


class Mixed(nn.Module):
    """One of everything that the lowering knows."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(20)
        self.depthwise = nn.Conv2d(20, 40, 3, 1, 1, groups=20)
        self.pointwise = nn.Conv2d(40, 20, 1)
        self.first = nn.Conv2d(20, 40, 1, bias=False)
        self.grouped = nn.Conv2d(40, 20, 3, 1, 1, groups=20)
        self.gate = nn.Conv2d(20, 20, 1)
        self.wide = nn.Conv2d(20, 32, (1, 5), padding="same", dilation=2)  # whole blocks
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        y = F.relu6(self.pointwise(F.relu(self.depthwise(x))) + x)  # residual, clipped
        y = self.grouped(self.first(y)) * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        z = F.hardswish(self.wide(y))
        z = torch.cat([F.max_pool2d(z, 3, 1, 1), z * 2 - 0.5], 1)
        z = F.avg_pool2d(z, 2)
        return self.head(F.adaptive_avg_pool2d(z, 1).flatten(1)), z


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = Mixed()
    for _ in range(3):  # running statistics that are not the initial ones
        model(torch.randn(8, 3, 19, 22) * 2 + 1)
    return model.eval()


@pytest.fixture(scope="module")
def compiled(model):
    return compile(model, torch.randn(2, 3, 19, 22))


def test_same_as_torch_on_inputs_it_was_not_checked_on(model, compiled):
    for seed in range(3):
        x = torch.randn(2, 3, 19, 22, generator=torch.Generator().manual_seed(seed)) * 3
        with torch.no_grad():
            want = model(x)
        have = compiled(x)
        assert isinstance(have, tuple)
        for ours, theirs in zip(have, want, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_metadata(compiled):
    metadata = compiled.metadata
    assert 0 < metadata.max_relative_error < 1e-5
    assert metadata.target == "native"
    assert metadata.tvm_target["kind"] == "llvm"
    assert metadata.input_shapes == ((2, 3, 19, 22),)
    assert metadata.returns == {"tuple": [{"tensor": 0}, {"tensor": 1}]}
    assert metadata.kernels["metaschedule"] == 0
    own = metadata.own_kernels
    assert own["separable"] == 1  # the depthwise convolution and the pointwise one after it
    assert own["pw_dw"] == 1  # `first` and `grouped`, two terms an output
    assert "pack" not in own  # the stem reads the image as it is
    assert own["unpack"] == 1  # the second output
    assert own["pooled"] == 1  # the stem and the pooling after it
    assert own["max_pool"] == own["average_pool"] == own["linear"] == 1
    assert own["global_average"] == 2
    assert sum(own.values()) == metadata.kernels["own"]


def test_results_survive_the_next_call(compiled):
    x = torch.randn(2, 3, 19, 22)
    first = compiled(x)[1]
    kept = first.clone()
    compiled(torch.zeros_like(x))
    assert torch.equal(first, kept)


def test_inputs_that_do_not_lie_as_tvm_wants(model, compiled):
    x = torch.randn(2, 3, 22, 19)
    misaligned = torch.randn(2 * 3 * 19 * 22 + 1)[1:].reshape(2, 3, 19, 22)
    for tensor in (x.transpose(2, 3), misaligned, misaligned.clone().requires_grad_()):
        with torch.no_grad():
            want = model(tensor)[1]
        torch.testing.assert_close(compiled(tensor)[1], want, rtol=1e-4, atol=1e-5)


def test_the_model_is_not_changed_and_training_mode_is_not_compiled():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(1, 3, 8, 8)
    compiled = compile(model, x)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    torch.testing.assert_close(compiled(x), model.eval()(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ((torch.zeros(1, 3, 19, 22),), "compiled for float32 \\(2, 3, 19, 22\\)"),
        ((torch.zeros(2, 3, 19, 22, dtype=torch.float64),), "float64"),
        ((torch.zeros(2, 3, 19, 22), torch.zeros(1)), "2 inputs; compiled for 1"),
        (([1.0],), "is a list, not a tensor"),
    ],
)
def test_wrong_inputs_are_refused(compiled, bad, words):
    with pytest.raises(InputError, match=words):
        compiled(*bad)


def test_unknown_target_offers_the_nearest():
    with pytest.raises(UsageError, match="did you mean x86-64-v3"):
        compile(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8), "x86_64_v3")


def test_a_target_that_this_cpu_cannot_run_is_refused(monkeypatch):
    from sepify.compiling import tvm_api

    present = tvm_api.host_features() - {"avx2", "fma"}
    monkeypatch.setattr(tvm_api, "host_features", lambda: present)
    with pytest.raises(CompileError, match="lacks avx2, fma"):
        compile(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8), "x86-64-v3")


class Strange(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x).real


def test_an_operator_that_tvm_does_not_know_is_named_with_its_layer():
    model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU(), Strange()))
    with pytest.raises(CompileError, match=r"linalg_eig.default.* called in '1\.1'.*; rewrite"):
        compile(model, torch.randn(1, 3, 8, 8))
    with pytest.raises(CompileError, match="linalg_eig.*called in '.+'; rewrite"):
        compile(Strange(), torch.randn(1, 3, 8, 8))


def test_a_wrong_result_is_refused(monkeypatch):
    monkeypatch.setattr(compiling_pipeline, "MAX_RELATIVE_ERROR", 0.0)
    with pytest.raises(CompileError, match="differs from torch by"):
        compile(nn.Conv2d(3, 8, 3), torch.randn(1, 3, 8, 8))


def test_a_model_whose_output_is_not_finite_is_refused():
    model = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        model.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(CompileError, match="not finite"):
        compile(model, torch.randn(1, 3, 8, 8))


def test_wrong_example_inputs_are_refused():
    with pytest.raises(InputError, match="does not run on the example input"):
        compile(nn.Conv2d(3, 8, 3), torch.zeros(1, 4, 8, 8))
    with pytest.raises(InputError, match="tensor or a tuple"):
        compile(nn.Conv2d(3, 8, 3), "x")


def test_without_tvm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(DependencyError, match=r"pip install 'sepify\[tvm\]'"):
        compile(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8))


def test_importing_does_not_load_tvm():
    code = "import sys, sepify.compiling; assert not [m for m in sys.modules if m[:3] == 'tvm']"
    subprocess.run([sys.executable, "-c", code], check=True)


def _conv(outputs: int, **settings: int) -> nn.LazyConv2d:
    return nn.LazyConv2d(outputs, **{"kernel_size": 1, "bias": False, **settings})


@pytest.mark.parametrize(
    ("layers", "kernels"),
    [
        ([_conv(48), _conv(24, kernel_size=3, padding=1, groups=24)], {"pw_dw": 1}),
        ([_conv(24), _conv(24, kernel_size=3, padding=1, groups=24)], {"pw_dw": 1}),
        # an inverted residual: the filters go with the second pointwise convolution
        (
            [_conv(48), nn.ReLU6(), _conv(48, kernel_size=3, padding=1, groups=48), _conv(20)],
            {"separable": 1, "pointwise": 1},
        ),
        # what the window needs does not come row after row
        ([_conv(48), _conv(24, kernel_size=3, dilation=2, groups=24)], {"grouped": 1}),
        ([_conv(48), _conv(24, kernel_size=2, stride=3, groups=24)], {"grouped": 1}),
    ],
)
def test_which_layers_share_a_kernel(layers, kernels):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 14, 15)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), *layers, nn.ReLU()).eval()
    with torch.no_grad():
        want = model(x)
    compiled = compile(model, x)
    torch.testing.assert_close(compiled(x), want, rtol=1e-4, atol=1e-5)
    for kind, count in kernels.items():
        assert compiled.metadata.own_kernels[kind] == count
