"""Strided depthwise convolutions in float32 under bf16 on a CPU."""

import copy
import pickle

import pytest
import torch
from distilling.students import pictures, student, teacher
from torch import nn

from sepify.distilling import DistillationPair
from sepify.distilling.precision import is_strided_depthwise, strided_depthwise


def learner(order="dw-pw"):
    """What the pair trains: `conv2` has stride 2."""
    network = teacher()
    return DistillationPair(student(network, order=order), network, pictures(8)).learner


def called(network):
    return [node.args[1].target for node in network.graph.nodes if node.target is strided_depthwise]


@pytest.mark.parametrize("order", ["dw-pw", "pw-dw"])
def test_only_the_strided_one_is_called_so_and_answers_the_same(order):
    network = teacher()
    small, x = student(network, order=order), pictures(8)
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
    ("options", "expected"),
    [
        ({"groups": 8, "stride": 2}, True),
        ({"groups": 8, "stride": (1, 2), "dilation": 2}, True),
        ({"groups": 8}, False),
        ({"groups": 4, "stride": 2}, False),
        ({"groups": 8, "stride": 2, "padding_mode": "reflect", "padding": 1}, False),
        ({"groups": 8, "padding": "same"}, False),
    ],
)
def test_which_convolutions_are(options, expected):
    assert is_strided_depthwise(nn.Conv2d(8, 16, 3, **options)) is expected
    assert not is_strided_depthwise(None)


def test_a_copy_and_a_pickle_of_the_graph_compute_the_same():
    taught, x = learner(), pictures(4)
    for other in (copy.deepcopy(taught), pickle.loads(pickle.dumps(taught))):
        assert called(other) == ["conv2.depthwise.weight"]
        assert torch.equal(other(x)[0], taught(x)[0])


def test_a_kept_dense_convolution_with_a_stride_stays_a_module():
    network = teacher()
    small = student(network, keep=("conv2",))
    assert called(DistillationPair(small, network, pictures(8)).learner) == []
