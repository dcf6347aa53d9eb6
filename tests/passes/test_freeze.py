import torch
from nets import Plain, images, seeded
from torch import fx

from sepify.passes.freeze import Freeze


@torch.no_grad()
def test_frozen_once_there_is_nothing_left_to_do():
    network = fx.symbolic_trace(seeded(Plain()))
    wanted = network(images())
    network.train()
    result = Freeze().apply(network)
    assert result.graph_module is network
    assert result.changed
    assert torch.equal(network(images()), wanted)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not Freeze().apply(network).changed
    assert not Freeze().apply(network).left_alone
