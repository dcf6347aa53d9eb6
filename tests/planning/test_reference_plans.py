"""Plans that need no measurements."""

import torch
from planning.made_up_layers import COSTS, LAYERS, ranks
from torch import nn

from sepify.planning.reference_plans import energy_picks, reference_picks, uniform_picks


def test_uniform_fills_the_budget_from_the_last_layer_on():
    assert ranks(uniform_picks(LAYERS, COSTS, 130)) == [None, 1, 1, 1]
    # 'c' has no rank 2 that is cheaper than to keep it: one more there is the convolution itself
    assert uniform_picks(LAYERS, COSTS, 219) == uniform_picks(LAYERS, COSTS, 130)
    assert ranks(uniform_picks(LAYERS, COSTS, 230)) == [None, 1, 2, None]
    assert ranks(uniform_picks(LAYERS, COSTS, 300)) == [None, 3, 3, None]
    assert uniform_picks(LAYERS, COSTS, 129) is None


def test_greedy_takes_the_rank_that_keeps_a_share_of_the_energy():
    convs = {each.names[0]: nn.Conv2d(4, 8, 3) for each in LAYERS}
    flat = torch.randn(8, 4, 1, 1) * torch.randn(1, 4, 3, 3)  # of rank 1: nothing is lost
    convs["b"].weight.data = flat
    picks = energy_picks(LAYERS, COSTS, 130, convs)
    assert ranks(picks)[2] == 1
    assert sum(row[pick] for row, pick in zip(COSTS, picks, strict=True)) <= 130
    assert energy_picks(LAYERS, COSTS, 39, convs) is None
    assert reference_picks(LAYERS, COSTS, 39, convs) == []
