"""Sizes between those that were measured."""

import pytest
import torch
from nets import images
from torch import fx, nn

from sepify.graph.convolutions import survey
from sepify.graph.maps import measure_maps
from sepify.planning.candidates import Candidate, Layer, Measurements
from sepify.planning.ladders import ladder, with_sizes_between
from sepify.plans.chains import Bottleneck
from sepify.plans.costs import Cost, standard_cost
from sepify.plans.forms import Keep, Separate


def test_damage_is_a_power_between_neighbours_and_latency_a_straight_line() -> None:
    torch.manual_seed(0)
    network = fx.symbolic_trace(nn.Sequential(nn.Conv2d(32, 32, 3, padding=1)))
    (convolution,) = survey(network)
    maps = measure_maps(network, (images(1, 32),))

    def candidate(channels: int, damage: float, seconds: float) -> Candidate:
        form = Bottleneck(channels)
        cost = form.cost(convolution, maps["0"], bias=True)
        return Candidate(form, Cost(cost.macs, cost.params, cost.moved, seconds), damage)

    kept = Candidate(Keep(), standard_cost(convolution, maps["0"]), 0.0)
    dw_pw = Candidate(Separate("dw-pw", 1), Cost(1, 1), 0.5)
    given = Layer(
        ("0",),
        convolution.kernel,
        (kept, candidate(64, 0.01, 4.0), dw_pw, candidate(16, 0.16, 1.0)),
    )
    measurements = Measurements((given,), "kl", 10, 0, 4)
    (finer,) = with_sizes_between(measurements, {"0": convolution}, maps).layers
    assert finer.candidates[:4] == given.candidates
    steps = [finer.candidates[k] for k in ladder(finer, "bottleneck")]
    assert [each.form.step for each in steps] == [16, 24, 40, 64]
    between = steps[1]
    assert not between.measured
    assert between.damage == pytest.approx(0.16 * (24 / 16) ** -2)  # 16 to 64, 0.16 to 0.01
    assert between.cost.seconds == pytest.approx(1.0 + 3.0 * 8 / 48)
    assert between.cost.macs == Bottleneck(24).cost(convolution, maps["0"], bias=True).macs
    assert ladder(finer, "dw-pw") == [2]
