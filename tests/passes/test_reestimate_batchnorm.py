import copy

import pytest
import torch
from nets import Plain, images, rewritten, seeded
from torch import fx, nn

from sepify.errors import InputError
from sepify.passes.reestimate_batchnorm import ReestimateBatchNorm


@torch.no_grad()
def test_reestimated_statistics_are_those_of_the_data():
    network = fx.symbolic_trace(seeded(Plain()))
    batches = [(part,) for part in images(16).split(4)]
    estimated = rewritten(network, ReestimateBatchNorm(batches))
    maps = network.conv1(images(16))
    torch.testing.assert_close(estimated.bn1.running_mean, maps.mean((0, 2, 3)))
    per_batch = torch.stack([part.var((0, 2, 3)) for part in maps.split(4)])
    torch.testing.assert_close(estimated.bn1.running_var, per_batch.mean(0))


def test_modes_momenta_and_the_given_network_are_kept():
    network = fx.symbolic_trace(seeded(Plain()))
    network.bn1.train()
    before = copy.deepcopy(network.state_dict())
    estimated = rewritten(network, ReestimateBatchNorm([(images(),)]))
    assert estimated.bn1.training
    assert not estimated.bn2.training
    assert estimated.bn1.momentum == 0.1
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("batches", "message"), [([], "without calibration"), ([(images(1),)], "single image")]
)
def test_too_little_data(batches, message):
    with pytest.raises(InputError, match=message):
        rewritten(fx.symbolic_trace(seeded(Plain())), ReestimateBatchNorm(batches))


def test_nothing_to_do_without_batchnorm():
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 3, 3)))
    assert torch.equal(rewritten(network, ReestimateBatchNorm([]))(images()), network(images()))


def test_what_keeps_no_statistics_is_left_alone():
    network = seeded(Plain())
    network.bn2 = nn.BatchNorm2d(16, track_running_stats=False)
    result = ReestimateBatchNorm([(images(),)]).apply(fx.symbolic_trace(network))
    assert dict(result.left_alone) == {"bn2": "it keeps no running statistics"}
    assert result.changed


def test_without_data_everything_is_left_alone():
    result = ReestimateBatchNorm().apply(fx.symbolic_trace(seeded(Plain())))
    reason = "there are no calibration data"
    assert dict(result.left_alone) == {"bn1": reason, "bn2": reason}
    assert not result.changed
