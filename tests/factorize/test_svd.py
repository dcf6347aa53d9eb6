import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sepify.errors import ConversionError
from sepify.factorize.svd import factorize_svd, svd_error
from sepify.plans.forms import ORDERS, full_rank

shapes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(1, 5))


def kernel_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(ORDERS))
def test_full_rank_multiplies_out_to_the_kernel(shape, order):
    weight = kernel_of(shape)
    factors = factorize_svd(weight, None, order, full_rank(shape, order))
    torch.testing.assert_close(factors.kernel(), weight, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from(ORDERS), st.data())
def test_error_is_the_energy_that_truncation_loses(shape, order, data):
    weight = kernel_of(shape, torch.float64)
    rank = data.draw(st.integers(1, full_rank(shape, order)))
    lost = weight - factorize_svd(weight, None, order, rank).kernel()
    measured = float(lost.square().sum() / weight.square().sum())
    assert svd_error(weight, order, rank) == pytest.approx(measured, abs=1e-12)


def test_shapes_bias_and_dtype():
    weight, bias = kernel_of((6, 4, 3, 5)).half(), torch.arange(6.0).half()
    dw_pw = factorize_svd(weight, bias, "dw-pw", 2)
    assert dw_pw.depthwise.shape == (8, 1, 3, 5)
    assert dw_pw.pointwise.shape == (6, 8, 1, 1)
    pw_dw = factorize_svd(weight, bias, "pw-dw", 2)
    assert pw_dw.depthwise.shape == (6, 2, 3, 5)
    assert pw_dw.pointwise.shape == (12, 4, 1, 1)
    assert pw_dw.depthwise.dtype == torch.half
    assert torch.equal(pw_dw.bias, bias)
    assert pw_dw.bias is not bias


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_rank_out_of_range(rank):
    with pytest.raises(ConversionError, match=r"not in 1\.\.4"):
        factorize_svd(kernel_of((4, 8, 3, 3)), None, "dw-pw", rank)


def test_nan_weights():
    weight = kernel_of((4, 4, 3, 3))
    weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ConversionError, match="NaN"):
        factorize_svd(weight, None, "dw-pw", 1)


def test_zero_kernel():
    assert svd_error(torch.zeros(4, 4, 3, 3), "dw-pw", 1) == 0
    assert not factorize_svd(torch.zeros(4, 4, 3, 3), None, "pw-dw", 1).kernel().any()
