from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest
from torch import Tensor

from sepify.errors import InputError
from sepify.judging.statistics import accuracy, correct, mcnemar, paired_difference, top1, wilson

counts = st.integers(0, 400)


@given(st.integers(1, 5_000), st.floats(0, 1))
def test_wilson_is_scipys(n: int, share: float) -> None:
    hits = round(share * n)
    reference = binomtest(hits, n).proportion_ci(method="wilson")
    given = wilson(hits, n)
    assert given.value == hits / n
    assert given.low == pytest.approx(reference.low, abs=1e-12)
    assert given.high == pytest.approx(reference.high, abs=1e-12)


def test_wilson_of_a_published_example() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I: 81 of 263
    given = wilson(81, 263)
    assert (round(given.low, 4), round(given.high, 4)) == (0.2553, 0.3662)


def test_paired_difference_of_a_published_example() -> None:
    # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850: airway reactivity
    # before and after stem cell transplantation, cells 1, 1, 7, 12; Newcombe: -0.507 to -0.026
    given = paired_difference(both=1, lost=7, gained=1, neither=12)
    assert given.value == pytest.approx(-6 / 21)
    assert (round(given.low, 3), round(given.high, 3)) == (-0.507, -0.026)


@given(counts, counts, counts, counts)
def test_paired_difference_is_symmetric_and_holds_its_estimate(
    both: int, lost: int, gained: int, neither: int
) -> None:
    if both + lost + gained + neither == 0:
        return
    given = paired_difference(both, lost, gained, neither)
    mirrored = paired_difference(both, gained, lost, neither)
    assert -1 - 1e-12 <= given.low <= given.value <= given.high <= 1 + 1e-12
    assert (mirrored.low, mirrored.high) == pytest.approx((-given.high, -given.low))


def test_paired_difference_covers_the_truth() -> None:
    """Of 2,000 drawn tables, the share whose interval holds the true difference is near 95 %."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.80, 0.08, 0.04, 0.08])  # both, lost, gained, neither: -0.04
    drawn = torch.multinomial(shares, 2_000 * 300, replacement=True, generator=generator)
    tables = [torch.bincount(table, minlength=4).tolist() for table in drawn.view(2_000, 300)]
    intervals = [paired_difference(*table) for table in tables]
    covered = sum(given.low <= -0.04 <= given.high for given in intervals) / len(intervals)
    assert 0.935 < covered < 0.975


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_doubled_tail(lost: int, gained: int) -> None:
    tail = float(binom.cdf(min(lost, gained), lost + gained, 0.5))
    assert mcnemar(lost, gained) == pytest.approx(min(1.0, 2 * tail))


def test_accuracy_counts_the_four_cells() -> None:
    before = torch.tensor([1, 1, 1, 0, 0, 1], dtype=torch.bool)
    after = torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.bool)
    given = accuracy(before, after)
    assert (given.images, given.lost, given.gained) == (6, 2, 1)
    assert given.before.value == 4 / 6
    assert given.after.value == 3 / 6
    assert given.difference.value == pytest.approx(-1 / 6)
    assert given.p == 1.0
    assert math.isclose(given.before.low, wilson(4, 6).low)


def test_top1() -> None:
    images = torch.eye(4).view(4, 1, 2, 2)
    labels = torch.tensor([0, 1, 2, 0])

    def model(x: Tensor) -> Tensor:
        return x.flatten(1)

    assert top1(model, images, labels, batch=3) == 0.75


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(0, 1), torch.zeros(0).long(), "labelled data is empty"),
        (torch.zeros(3, 1), torch.zeros(2).long(), "3 images but 2 labels"),
        (torch.zeros(3, 1), torch.zeros(3), "class numbers"),
        (torch.zeros(3, 1), torch.zeros(3, 10).long(), "class numbers"),
    ],
)
def test_top1_refuses_bad_data(images: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        top1(lambda x: x, images, labels)


def test_scores_that_do_not_fit_the_labels() -> None:
    labels = torch.tensor([0, 5])
    with pytest.raises(InputError, match=r"labels run from 0 to 5, but it knows classes 0 to 2"):
        correct(torch.zeros(2, 3), labels, "it")
    with pytest.raises(InputError, match=r"needs class scores of shape \(2, classes\)"):
        correct(torch.zeros(2, 3, 4, 4), labels, "it")
    with pytest.raises(InputError, match="labelled data is empty"):
        accuracy(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool))
