import pytest
import torch
from nets import images
from torch import nn
from torch.nn import functional as F

from sepify.factorize.least_squares import solve_least_squares
from sepify.factorize.linear import solve_damped
from sepify.factorize.statistics import Moments, MomentSums
from sepify.factorize.svd import factorize_svd
from sepify.plans.forms import ORDERS


@torch.no_grad()
def correlated(count: int, channels: int = 6, seed: int = 0) -> torch.Tensor:
    """Smooth, non-negative maps, as a trained network has them: far from white noise."""
    noise = images(count, channels, 14, seed)
    mixed = torch.einsum("bchw,dc->bdhw", noise, images(1, 1, channels, 7)[0, 0])
    return F.relu(F.avg_pool2d(mixed, 3, 1, 1) + 0.1)


def seeded_conv(**options: object) -> nn.Conv2d:
    torch.manual_seed(3)
    return nn.Conv2d(6, 8, 3, **options)


@torch.no_grad()
def moments_of(conv: nn.Conv2d, x: torch.Tensor, y: torch.Tensor) -> Moments:
    sums = MomentSums(conv)
    sums.add(x, y)
    return sums.moments()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rank", [1, 2, 3])
@torch.no_grad()
def test_outputs_come_far_closer_than_with_the_svd(order, rank):
    conv = seeded_conv(padding=1)
    fit_x, held_x = correlated(24, seed=1), correlated(8, seed=2)
    fit = moments_of(conv, fit_x, conv(fit_x))
    held = moments_of(conv, held_x, conv(held_x))
    start = factorize_svd(conv.weight, conv.bias, order, rank)
    solution = solve_least_squares(start, fit, held)
    assert solution.heldout_error < 0.8 * held.error(start.kernel())
    assert solution.heldout_error == pytest.approx(held.error(solution.factors.kernel()), rel=1e-6)
    assert solution.factors.depthwise.shape == start.depthwise.shape
    assert solution.factors.pointwise.dtype == torch.float32


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_a_separable_teacher_is_found_exactly(order):
    conv = seeded_conv(padding=1)
    conv.weight.copy_(factorize_svd(conv.weight, None, order, 1).kernel())
    x = correlated(24)
    moments = moments_of(conv, x, conv(x))
    start = factorize_svd(conv.weight + 0.02 * torch.randn_like(conv.weight), None, order, 1)
    solution = solve_least_squares(start, moments, moments, iterations=40)
    assert solution.heldout_error < 1e-4


@torch.no_grad()
def test_the_asymmetric_target_makes_up_for_earlier_errors():
    """Inputs halved by an earlier error: the solved layer doubles, and is as good as without."""
    conv = seeded_conv(padding=1)
    x = correlated(24)
    start = factorize_svd(conv.weight, conv.bias, "dw-pw", 3)
    faithful, halved = moments_of(conv, x, conv(x)), moments_of(conv, 0.5 * x, conv(x))
    repaired = solve_least_squares(start, halved, halved).heldout_error
    assert repaired == pytest.approx(
        solve_least_squares(start, faithful, faithful).heldout_error, rel=0.01
    )
    assert repaired < 0.5 * halved.error(start.kernel())


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_dead_and_constant_channels_give_finite_factors(order):
    conv = seeded_conv(padding=1)
    x = correlated(16)
    x[:, 0] = 0  # a dead ReLU
    x[:, 1] = 3  # constant but for the padding
    moments = moments_of(conv, x, conv(x))
    start = factorize_svd(conv.weight, conv.bias, order, 2)
    solution = solve_least_squares(start, moments, moments)
    assert torch.isfinite(solution.factors.kernel()).all()
    assert solution.heldout_error < 0.5


@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_inputs_without_any_variance(order):
    conv = seeded_conv()
    x = torch.zeros(8, 6, 14, 14)
    moments = moments_of(conv, x, conv(x))
    start = factorize_svd(conv.weight, conv.bias, order, 1)
    solution = solve_least_squares(start, moments, moments)
    assert torch.isfinite(solution.factors.kernel()).all()
    torch.testing.assert_close(solution.factors.bias, conv.bias)  # all that is left to explain


def test_systems_that_are_solved_together_are_damped_each_by_itself():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 6, 6, generator=generator, dtype=torch.float64)
    systems = root @ root.mT
    systems[1] = 0  # nothing varies
    systems[2, :, 3:] = systems[2, 3:, :] = 0  # some of it does not
    systems[3, 5, 5] = -1e-2 * systems[3].trace()  # rounding, exaggerated
    targets = torch.randn(4, 6, 2, generator=generator, dtype=torch.float64)
    together = solve_damped(systems, targets, 1e-6)
    for system, target, solved in zip(systems, targets, together, strict=True):
        torch.testing.assert_close(solved, solve_damped(system, target, 1e-6))
    assert not together[1].any()
    assert together.isfinite().all()


@torch.no_grad()
def test_pw_dw_does_not_depend_on_how_many_channels_are_solved_at_a_time(monkeypatch):
    conv, x = seeded_conv(padding=1), correlated(24)
    moments = moments_of(conv, x, conv(x))
    start = factorize_svd(conv.weight, conv.bias, "pw-dw", 2)
    together = solve_least_squares(start, moments, moments, 3)
    monkeypatch.setattr("sepify.factorize.pw_dw.AT_ONCE", 1)
    alone = solve_least_squares(start, moments, moments, 3)
    torch.testing.assert_close(alone.factors.kernel(), together.factors.kernel())
