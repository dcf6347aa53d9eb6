import itertools
import random

import pytest

from sepify.errors import PlanError
from sepify.planning.knapsack import choose, least_cost


def random_tables(seed: int, layers: int = 5, candidates: int = 4):
    draw = random.Random(seed)
    damages = [[draw.random() for _ in range(candidates)] for _ in range(layers)]
    costs = [[float(draw.randint(1, 1000)) for _ in range(candidates)] for _ in range(layers)]
    return damages, costs


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_the_best_there_is(seed):
    damages, costs = random_tables(seed)
    limit = 0.5 * sum(map(max, costs))
    every = itertools.product(range(4), repeat=5)
    best = min(
        sum(row[k] for row, k in zip(damages, picks, strict=True))
        for picks in every
        if sum(row[k] for row, k in zip(costs, picks, strict=True)) <= limit
    )
    choice = choose(damages, costs, limit)
    assert choice.damage == pytest.approx(best, rel=1e-6)
    assert choice.cost <= limit
    assert choice.gap <= 1e-6


def test_a_limit_is_kept_to_the_last_unit():
    costs = [[10_000_001.0, 1.0], [10_000_000.0, 2.0]]
    choice = choose([[0.0, 1.0], [0.0, 0.5]], costs, 20_000_000.0)
    assert choice.picks == (0, 1)


def test_among_equals_the_cheaper():
    assert choose([[1.0, 1.0, 1.0]], [[3.0, 1.0, 2.0]], 10).picks == (1,)


def test_what_cannot_be_met_says_the_least():
    with pytest.raises(PlanError, match="the least possible is 5"):
        choose([[0.0], [0.0]], [[2.0], [3.0]], 4)
    assert least_cost([[2.0, 9.0], [3.0]]) == 5


def test_nothing_to_choose():
    assert choose([], [], 0).picks == ()
