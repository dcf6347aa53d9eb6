import copy

import pytest
import torch
from nets import Plain, Residual, images, relative_error, seeded
from torch import fx, nn

from sepify.errors import InputError
from sepify.passes.fold_batchnorm import fold_batchnorm
from sepify.passes.reestimate_batchnorm import reestimate_batchnorm


@pytest.mark.parametrize("network", [Plain, Residual])
@torch.no_grad()
def test_folding_keeps_the_function_and_removes_every_batchnorm(network):
    traced = fx.symbolic_trace(seeded(network()))
    folded = fold_batchnorm(traced)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert relative_error(folded(images()), traced(images())) < 1e-5
    assert [m for m in traced.modules() if isinstance(m, nn.BatchNorm2d)]


class Unfoldable(nn.Module):
    """The convolution's output has a second user, so the BatchNorm cannot be absorbed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return y + self.bn(y)


@torch.no_grad()
def test_a_second_user_or_training_mode_prevents_folding():
    traced = fx.symbolic_trace(seeded(Unfoldable()))
    assert torch.equal(fold_batchnorm(traced)(images()), traced(images()))
    training = fx.symbolic_trace(seeded(Plain())).train()
    assert isinstance(fold_batchnorm(training).bn1, nn.BatchNorm2d)


@torch.no_grad()
def test_reestimated_statistics_are_those_of_the_data():
    network = fx.symbolic_trace(seeded(Plain()))
    batches = [(part,) for part in images(16).split(4)]
    estimated = reestimate_batchnorm(network, batches)
    maps = network.conv1(images(16))
    torch.testing.assert_close(estimated.bn1.running_mean, maps.mean((0, 2, 3)))
    per_batch = torch.stack([part.var((0, 2, 3)) for part in maps.split(4)])
    torch.testing.assert_close(estimated.bn1.running_var, per_batch.mean(0))


def test_modes_momenta_and_the_given_network_are_kept():
    network = fx.symbolic_trace(seeded(Plain()))
    network.bn1.train()
    before = copy.deepcopy(network.state_dict())
    estimated = reestimate_batchnorm(network, [(images(),)])
    assert estimated.bn1.training
    assert not estimated.bn2.training
    assert estimated.bn1.momentum == 0.1
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("batches", "message"), [([], "without calibration"), ([(images(1),)], "single image")]
)
def test_too_little_data(batches, message):
    with pytest.raises(InputError, match=message):
        reestimate_batchnorm(fx.symbolic_trace(seeded(Plain())), batches)


def test_nothing_to_do_without_batchnorm():
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 3, 3)))
    assert torch.equal(reestimate_batchnorm(network, [])(images()), network(images()))
