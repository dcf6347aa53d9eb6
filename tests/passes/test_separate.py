import copy
import pickle

import pytest
import torch
from nets import Plain, Residual, images, relative_error, rewritten, seeded
from torch import fx, nn
from torch.nn import functional as F

from sepify.capture import capture
from sepify.errors import ConversionError
from sepify.factorize.svd import factorize_svd
from sepify.passes.separate import SeparateConvolutions, chains
from sepify.plans.forms import ORDERS, full_rank

CONVS = {
    "plain": dict(kernel_size=3),
    "padding": dict(kernel_size=3, padding=1),
    "padding tuple": dict(kernel_size=(3, 5), padding=(2, 1)),
    "stride": dict(kernel_size=3, stride=2, padding=1),
    "uneven stride": dict(kernel_size=3, stride=(1, 2), padding=1),
    "dilation": dict(kernel_size=3, dilation=2, padding=2),
    "one dimension": dict(kernel_size=(1, 7), padding=(0, 3)),
    "same": dict(kernel_size=3, padding="same"),
    "same, even": dict(kernel_size=(4, 2), padding="same", dilation=(1, 3)),
    "valid": dict(kernel_size=5, padding="valid"),
    "reflect": dict(kernel_size=3, padding=1, padding_mode="reflect"),
    "replicate": dict(kernel_size=5, padding=2, padding_mode="replicate", stride=2),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
    "reflect, same": dict(kernel_size=3, padding="same", padding_mode="reflect"),
    "more inputs than outputs": dict(kernel_size=3, padding=1, in_channels=13, out_channels=2),
    "one input": dict(kernel_size=3, padding=1, in_channels=1),
}


def factors_for(graph_module: fx.GraphModule, order: str, *names: str, rank: int | None = None):
    solved = {}
    for name in names:
        conv = graph_module.get_submodule(name)
        r = rank or full_rank(tuple(conv.weight.shape), order)
        solved[name] = factorize_svd(conv.weight, conv.bias, order, r)
    return solved


def both(network: fx.GraphModule, rank: int) -> fx.GraphModule:
    """`network`, a Plain or Residual, with two convolutions separated."""
    factors = factors_for(network, "dw-pw", "conv1", "conv2", rank=rank)
    return rewritten(network, SeparateConvolutions(factors))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", CONVS.values(), ids=CONVS.keys())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@torch.no_grad()
def test_full_rank_is_the_original_function(options, bias, order):
    conv = nn.Conv2d(**{"in_channels": 5, "out_channels": 7, **options}, bias=bias)
    network = fx.symbolic_trace(nn.Sequential(conv, nn.ReLU()))
    small = rewritten(network, SeparateConvolutions(factors_for(network, order, "0")))
    x = images(2, conv.in_channels)
    assert relative_error(small(x), network(x)) < 1e-5
    assert list(chains(small)) == ["0"]


@pytest.mark.parametrize("order", ORDERS)
def test_names_and_order_of_the_calls(order):
    network = fx.symbolic_trace(seeded(Plain()))
    small = rewritten(network, SeparateConvolutions(factors_for(network, order, "conv2", rank=2)))
    calls = [node.target for node in small.graph.nodes if node.op == "call_module"]
    inner = ["conv2.depthwise", "conv2.pointwise"]
    assert calls == ["conv1", "bn1", *(inner if order == "dw-pw" else inner[::-1]), "bn2", "head"]
    untouched = {key for key in network.state_dict() if not key.startswith("conv2")}
    changed = {"conv2.depthwise.weight", "conv2.pointwise.weight"}
    changed.add("conv2.pointwise.bias" if order == "dw-pw" else "conv2.depthwise.bias")
    assert set(small.state_dict()) == untouched | changed


def test_the_given_module_is_left_alone():
    network = fx.symbolic_trace(seeded(Plain()))
    before = copy.deepcopy(network.state_dict())
    code = network.code
    both(network, rank=1)
    assert network.code == code
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.tied = nn.Conv2d(4, 4, 3, padding=1)
        self.tied.weight = self.conv.weight

    def forward(self, x):
        return self.tied(F.relu(self.conv(F.relu(self.conv(x)))))


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_shared_convolution_is_rewritten_once_and_tied_weights_stay_tied(order):
    network = fx.symbolic_trace(seeded(Shared()))
    small = rewritten(network, SeparateConvolutions(factors_for(network, order, "conv", "tied")))
    calls = [node.target for node in small.graph.nodes if node.op == "call_module"]
    assert calls.count("conv.depthwise") == calls.count("conv.pointwise") == 2
    assert small.conv.depthwise.weight is small.tied.depthwise.weight
    assert small.conv.pointwise.weight is small.tied.pointwise.weight
    x = images(2, 4)
    assert relative_error(small(x), network(x)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_gradient_flag_and_mode_are_kept(dtype):
    network = fx.symbolic_trace(seeded(Plain())).to(dtype)
    network.conv1.weight.requires_grad_(False)
    network.train()
    small = both(network, rank=1)
    assert {p.dtype for p in small.parameters()} == {dtype}
    assert not small.conv1.depthwise.weight.requires_grad
    assert small.conv2.depthwise.weight.requires_grad
    assert small.conv2.depthwise.training


def test_the_result_trains_scripts_exports_and_pickles_at_any_batch_size():
    network = capture(seeded(Residual())).graph_module
    small = both(network, rank=2)
    x = images(3)
    wanted = small(x)
    assert torch.equal(torch.jit.script(small)(x), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(small))(x), wanted)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(small, (x,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(images(5)), small(images(5)))
    small.train()(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_a_name_that_is_no_convolution():
    network = fx.symbolic_trace(seeded(Plain()))
    factors = factors_for(network, "dw-pw", "conv1", rank=1)
    with pytest.raises(ConversionError, match="'head' is a Linear"):
        rewritten(network, SeparateConvolutions({"head": factors["conv1"]}))


def test_a_convolution_without_factors_is_left_alone():
    network = fx.symbolic_trace(seeded(Plain()))
    result = SeparateConvolutions(factors_for(network, "dw-pw", "conv1")).apply(network)
    assert dict(result.left_alone) == {"conv2": "there are no factors for it"}
    nothing = SeparateConvolutions().apply(network)
    assert not nothing.changed
    assert set(nothing.left_alone) == {"conv1", "conv2"}
    assert nothing.graph_module.code == network.code
