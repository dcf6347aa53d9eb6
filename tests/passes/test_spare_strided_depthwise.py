"""Strided depthwise convolutions in float32 under bf16 on a CPU."""

import copy
import pickle

import pytest
import torch
from distilling.students import pictures, student, teacher
from torch import fx, nn

from sepify.distilling import DistillationPair
from sepify.passes.spare_strided_depthwise import SpareStridedDepthwise, strided_depthwise


def learner(order="dw-pw"):
    """What the pair trains: `conv2` has stride 2."""
    network = teacher()
    return DistillationPair(student(network, form=order), network, pictures(8)).learner


def called(network):
    return [node.args[1].target for node in network.graph.nodes if node.target is strided_depthwise]


@pytest.mark.parametrize("order", ["dw-pw", "pw-dw"])
def test_only_the_strided_one_is_called_so_and_answers_the_same(order):
    network = teacher()
    small, x = student(network, form=order), pictures(8)
    taught = DistillationPair(small, network, x).learner
    assert called(taught) == ["conv2.depthwise.weight"]
    assert taught.state_dict().keys() == small.state_dict().keys()
    assert taught.conv2.depthwise.weight is small.conv2.depthwise.weight
    assert torch.equal(taught(x)[0], small(x))


def test_in_bf16_on_a_cpu_it_is_float32_and_so_is_its_gradient():
    conv = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=8)
    x = torch.randn(4, 8, 9, 9, requires_grad=True)
    given = (conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation)
    conv(x).square().sum().backward()
    wanted = x.grad.clone()
    x.grad = None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
        found = strided_depthwise(x, *given)
    assert found.dtype == torch.float32
    assert torch.equal(found, conv(x))
    found.square().sum().backward()
    assert torch.equal(x.grad, wanted)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"groups": 8, "stride": 2}, None),
        ({"groups": 8, "stride": (1, 2), "dilation": 2}, None),
        ({"groups": 8}, "it has no stride, and is fast as it is"),
        (
            {"groups": 8, "stride": 2, "padding_mode": "reflect", "padding": 1},
            "its padding is not a number of zeros",
        ),
        ({"groups": 8, "padding": "same"}, "it has no stride, and is fast as it is"),
    ],
)
def test_which_depthwise_convolutions_are(options, reason):
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(8, 16, 3, **options)))
    result = SpareStridedDepthwise().apply(network)
    assert result.graph_module is network
    assert result.changed is (reason is None)
    assert dict(result.left_alone) == ({} if reason is None else {"0": reason})


def test_a_subclass_is_left_alone():
    class Own(nn.Conv2d):
        pass

    graph = fx.Graph()
    graph.output(graph.call_module("conv", (graph.placeholder("x"),)))
    network = fx.GraphModule({"conv": Own(8, 8, 3, stride=2, groups=8)}, graph)
    result = SpareStridedDepthwise().apply(network)
    assert dict(result.left_alone) == {"conv": "a subclass of Conv2d, Own"}
    assert not result.changed


def test_what_is_not_depthwise_is_no_site():
    layers = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, groups=4), nn.Conv2d(16, 4, 1, stride=2))
    result = SpareStridedDepthwise().apply(fx.symbolic_trace(layers))
    assert not result.changed
    assert not result.left_alone


def test_a_copy_and_a_pickle_of_the_graph_compute_the_same():
    taught, x = learner(), pictures(4)
    for other in (copy.deepcopy(taught), pickle.loads(pickle.dumps(taught))):
        assert called(other) == ["conv2.depthwise.weight"]
        assert torch.equal(other(x)[0], taught(x)[0])


def test_a_kept_dense_convolution_with_a_stride_stays_a_module():
    network = teacher()
    small = student(network, keep=("conv2",))
    assert called(DistillationPair(small, network, pictures(8)).learner) == []
