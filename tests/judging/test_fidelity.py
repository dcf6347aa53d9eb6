from __future__ import annotations

import math

import pytest
import torch

from sepify.errors import InputError
from sepify.judging.fidelity import fidelity
from sepify.judging.statistics import wilson


def test_known_outputs() -> None:
    before = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [5.0, 0.0]])
    after = torch.tensor([[4.0, 3.0], [2.0, 0.0], [0.0, 2.0], [0.0, 5.0]])
    halves = [((before[:1],), (after[:1],)), ((before[1:],), (after[1:],))]
    given = fidelity(halves)
    assert given.inputs == 4
    assert given.agreement == wilson(2, 4)
    assert given.cosine == pytest.approx((24 / 25 + 1 + 1 + 0) / 4)
    signal, noise = 25 + 1 + 4 + 25, 2 + 1 + 0 + 50
    assert given.sqnr == pytest.approx(10 * math.log10(signal / noise))
    assert not given.identical


def test_ten_per_cent_noise_is_twenty_decibels() -> None:
    y = torch.randn(50, 7, dtype=torch.float64)
    given = fidelity([((y,), (1.1 * y,))])
    assert given.sqnr == pytest.approx(20)
    assert given.cosine == pytest.approx(1)
    assert given.agreement is not None
    assert given.agreement.value == 1


def test_identical_outputs_have_no_finite_sqnr() -> None:
    y = torch.randn(5, 3)
    given = fidelity([((y,), (y.clone(),))])
    assert given.identical
    assert given.sqnr is None
    zeros = torch.zeros(5, 3)
    given = fidelity([((zeros,), (zeros,)), ((zeros,), (zeros + 1,))])
    assert (given.sqnr, given.identical, given.cosine) == (None, False, 0.5)


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 1), (4,)])
def test_what_is_no_row_of_scores_has_no_agreement(shape: tuple[int, ...]) -> None:
    y = torch.randn(shape)
    given = fidelity([((y,), (y,))])
    assert given.agreement is None
    assert given.cosine == pytest.approx(1)


def test_several_outputs_are_compared_together() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    given = fidelity([((a, b), (a, -b))])
    assert given.agreement is None
    assert given.cosine == pytest.approx(0)


def test_bad_outputs_are_refused() -> None:
    y = torch.randn(4, 3)
    with pytest.raises(InputError, match="is empty"):
        fidelity([])
    with pytest.raises(InputError, match=r"differ in shape: \(4, 3\) before, \(4, 2\) after"):
        fidelity([((y,), (y[:, :2],))])
    with pytest.raises(InputError, match="batch as first dimension"):
        fidelity([((y, y[:2]), (y, y[:2]))])
