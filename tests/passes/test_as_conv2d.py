import pytest
import torch
from torch import fx, nn
from torch.nn.utils.parametrizations import weight_norm

from sepify.passes.as_conv2d import as_conv2d

T1, T2 = nn.ConvTranspose1d, nn.ConvTranspose2d


@pytest.mark.parametrize(
    "conv",
    [
        T2(6, 4, 2, 2),
        T2(6, 4, 4, 2, 1),
        T2(6, 4, 3, 2, 1, output_padding=1, bias=False),
        T2(6, 4, 3, 3, 0, output_padding=2),
        T2(6, 4, 3, 1, 1),
        T2(6, 4, 1, 2),
        T2(6, 4, (5, 2), (3, 2), (2, 0), output_padding=(1, 0)),
        T2(6, 4, 4, 4, 3, output_padding=3),
        T2(6, 4, 5, 2, 2, groups=2),
        T2(6, 6, 2, 2, groups=6),
        T1(6, 4, 4, 2, 1),
        T1(6, 4, 3, 2, 1, output_padding=1, groups=2),
        nn.Conv1d(6, 4, 3),
        nn.Conv1d(6, 4, 5, 2, 2, groups=2, bias=False),
        nn.Conv1d(6, 4, 3, padding="same", dilation=2),
    ],
    ids=str,
)
def test_answers_are_the_same(conv):
    torch.manual_seed(0)
    network = fx.symbolic_trace(nn.Sequential(conv, nn.ReLU()).eval())
    shape = (2, 6, 7) if conv.weight.dim() == 3 else (2, 6, 5, 7)
    x = torch.randn(shape)
    changed = as_conv2d(network)
    kinds = {type(module) for module in changed.modules()}
    assert nn.Conv2d in kinds
    assert type(conv) not in kinds
    assert torch.allclose(changed(x), network(x), atol=1e-5)
    assert torch.allclose(changed(x[0]), network(x[0]), atol=1e-5)
    assert type(network.get_submodule("0")) is type(conv)


def test_a_module_called_twice_is_made_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = T2(4, 4, 2, 2)

        def forward(self, x):
            return self.up(self.up(x))

    network = fx.symbolic_trace(Twice().eval())
    x = torch.randn(1, 4, 3, 3)
    changed = as_conv2d(network)
    assert type(changed.up) is nn.Conv2d
    assert torch.allclose(changed(x), network(x), atol=1e-5)


def hooked():
    conv = T2(4, 4, 2, 2)
    conv.register_forward_hook(lambda *_: None)
    return conv


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv3d(4, 4, 1),
        T2(4, 4, 3, dilation=2),
        nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"),
        weight_norm(T2(4, 4, 2, 2)),
        hooked(),
    ],
    ids=str,
)
def test_left_alone(conv):
    graph = fx.Graph()
    graph.output(graph.call_module("conv", (graph.placeholder("x"),)))
    changed = as_conv2d(fx.GraphModule({"conv": conv}, graph))
    assert [node.op for node in changed.graph.nodes] == ["placeholder", "call_module", "output"]
    assert type(changed.conv) is type(conv)


def test_one_that_is_told_the_size_of_its_output_is_left_alone():
    graph = fx.Graph()
    graph.output(graph.call_module("conv", (graph.placeholder("x"), [7, 7])))
    changed = as_conv2d(fx.GraphModule({"conv": T2(4, 4, 3, 2)}, graph))
    assert type(changed.conv) is T2
