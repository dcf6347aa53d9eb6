import pytest
import torch
from nets import rewritten
from torch import fx, nn
from torch.nn.utils.parametrizations import weight_norm

from sepify.errors import PassError
from sepify.passes.as_conv2d import AsConv2d

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
    changed = rewritten(network, AsConv2d())
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
    changed = rewritten(network, AsConv2d())
    assert type(changed.up) is nn.Conv2d
    assert torch.allclose(changed(x), network(x), atol=1e-5)


def hooked():
    conv = T2(4, 4, 2, 2)
    conv.register_forward_hook(lambda *_: None)
    return conv


def alone(conv, *sizes):
    graph = fx.Graph()
    graph.output(graph.call_module("conv", (graph.placeholder("x"), *sizes)))
    return fx.GraphModule({"conv": conv.eval()}, graph).eval()


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv3d(4, 4, 1), "a Conv3d is no Conv2d with reshapes around it"),
        (T2(4, 4, 3, dilation=2), "transposed and dilated"),
        (nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"), "padding mode 'circular'"),
        (weight_norm(T2(4, 4, 2, 2)), "computed weight (parametrised, normalised or spectral)"),
        (hooked(), "forward hooks that a rewrite would lose"),
    ],
    ids=str,
)
def test_left_alone(conv, reason):
    network = alone(conv)
    result = AsConv2d().apply(network)
    assert dict(result.left_alone) == {"conv": reason}
    assert not result.changed
    assert result.graph_module.code == network.code
    assert type(result.graph_module.conv) is type(conv)


def test_one_that_is_told_the_size_of_its_output_is_left_alone():
    result = AsConv2d().apply(alone(T2(4, 4, 3, 2), [7, 7]))
    assert dict(result.left_alone) == {"conv": "it is told the size of its output"}
    assert type(result.graph_module.conv) is T2


def test_a_conv2d_is_no_site():
    result = AsConv2d().apply(alone(nn.Conv2d(4, 4, 3)))
    assert not result.left_alone
    assert not result.changed


def test_weights_that_learn_are_not_for_this():
    with pytest.raises(PassError, match="requires that every module is in evaluation mode"):
        rewritten(alone(nn.Conv1d(4, 4, 3)).train(), AsConv2d())
