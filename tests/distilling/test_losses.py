"""The parts of the loss, against their formulas."""

import math

import pytest
import torch
from torch.nn import functional as F

from sepify.distilling import Losses, same_outputs, soft_targets
from sepify.errors import UsageError


def test_soft_targets_are_the_divergence_times_the_square_of_the_temperature():
    student, teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    p, q = F.softmax(teacher / 4, 1), F.softmax(student / 4, 1)
    expected = 16 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(soft_targets(student, teacher, 4), expected)
    assert soft_targets(teacher, teacher) == 0


def test_soft_targets_of_maps_are_a_mean_over_positions():
    student, teacher = torch.randn(2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    rows = [t.permute(0, 2, 3, 1).reshape(-1, 5) for t in (student, teacher)]
    torch.testing.assert_close(soft_targets(student, teacher), soft_targets(*rows))


def test_same_outputs_weighs_every_tensor_alike():
    teacher = {"boxes": torch.full((2, 3), 10.0), "count": torch.tensor(3), "scores": torch.ones(2)}
    student = {
        "boxes": torch.full((2, 3), 11.0),
        "count": torch.tensor(4),
        "scores": torch.zeros(2),
    }
    assert float(same_outputs(student, teacher)) == pytest.approx((0.01 + 1) / 2)


def test_the_weight_of_the_layers_falls_in_a_line():
    losses = Losses(layers=2, layers_until=0.5)
    assert [losses.layers_at(share) for share in (0, 0.25, 0.5, 1)] == [2, 1, 0, 0]
    assert Losses(layers_until=0).layers_at(0) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft": -1}, "the weight soft=-1 is below 0"),
        ({"labels": math.nan}, "the weight labels=nan"),
        ({"temperature": 0}, "temperature=0 is not above 0"),
        ({"layers_until": 2}, "layers_until=2 is not a share"),
        ({"soft": 0, "layers": 0, "labels": 0}, "every part of the loss is switched off"),
        ({"soft": 0, "labels": 0}, "layers_until=1"),
    ],
)
def test_weights_that_make_no_sense(options, message):
    with pytest.raises(UsageError, match=message):
        Losses(**options)
