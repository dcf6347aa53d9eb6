"""Solvers of the forms through middle channels, on data."""

import pytest
import torch
from factorize.test_least_squares import correlated, moments_of
from torch import nn

from sepify.errors import ConversionError
from sepify.factorize import variable_projection
from sepify.factorize.conjugate_gradients import Maps, solve_on_maps
from sepify.factorize.factors import run_factors, run_factors_fast
from sepify.factorize.solvers import factorize, solve_form
from sepify.factorize.statistics import Moments
from sepify.plans.chains import Bottleneck, LowRank, Spatial
from sepify.plans.form import Form

FORMS = [Bottleneck(8), Spatial(4), LowRank(4)]


def problem(**options: object) -> tuple[nn.Conv2d, list[torch.Tensor], list[Moments]]:
    torch.manual_seed(3)
    conv = nn.Conv2d(6, 8, 3, **options)  # type: ignore[arg-type]
    inputs = [correlated(24, seed=1), correlated(8, seed=2)]
    with torch.no_grad():
        return conv, inputs, [moments_of(conv, x, conv(x)) for x in inputs]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
@torch.no_grad()
def test_outputs_come_closer_than_from_the_weights_alone(form: Form) -> None:
    conv, (_, unseen), (fit, held) = problem(padding=1)
    solution = solve_form(form, conv.weight, fit, held)
    assert solution.heldout_error < 0.8 * held.error(factorize(form, conv.weight, None).kernel())
    assert solution.heldout_error == pytest.approx(held.error(solution.factors.kernel()), rel=1e-4)
    assert solution.factors.dtype == torch.float32
    given, wanted = run_factors(solution.factors, conv, unseen), conv(unseen)
    torch.testing.assert_close(run_factors_fast(solution.factors, conv, unseen), given)
    power = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().mean()
    measured = float((given - wanted).square().mean() / power)
    assert measured == pytest.approx(solution.heldout_error, rel=0.05)


@torch.no_grad()
def test_a_bottleneck_is_found_exactly_and_beats_alternating_least_squares() -> None:
    conv, (x, other), _ = problem(padding=1)
    conv.weight.copy_(factorize(Bottleneck(3), conv.weight, None).kernel())
    fit, held = (moments_of(conv, each, conv(each)) for each in (x, other))
    assert solve_form(Bottleneck(3), conv.weight + 0.05, fit, held).heldout_error < 1e-3


@torch.no_grad()
def test_the_closed_form_of_low_rank_is_the_best_there_is() -> None:
    """No step from it in any direction explains more: L-BFGS on both factors finds nothing."""
    conv, _, (fit, _) = problem()
    found = solve_form(LowRank(3), conv.weight, fit, fit)
    reduce, expand = (w.double().flatten(1) for w in found.factors.weights.values())
    for seed in range(5):
        noise = torch.Generator().manual_seed(seed)
        moved = [
            w + 0.01 * torch.randn(w.shape, generator=noise).double() for w in (reduce, expand)
        ]
        assert fit.error(moved[1] @ moved[0]) > found.fitted_error


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
@torch.no_grad()
def test_maps_lead_near_to_where_moments_do(form: Form) -> None:
    conv, inputs, (fit, held) = problem(padding=1, stride=2)
    maps = [Maps(x, conv(x)) for x in inputs]
    expected = solve_form(form, conv.weight, fit, held)
    start = factorize(form, conv.weight, None)
    given = solve_on_maps(start, conv, *maps, iterations=30)
    assert given.heldout_error < 0.9 * held.error(start.kernel())
    assert given.heldout_error < 1.6 * expected.heldout_error


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
@torch.no_grad()
def test_dead_channels_and_no_variance_give_finite_factors(form: Form) -> None:
    conv, _, _ = problem()
    for x in (
        torch.zeros(8, 6, 14, 14),
        correlated(8) * torch.arange(6).clamp_max(1)[:, None, None],
    ):
        moments = moments_of(conv, x, conv(x))
        assert solve_form(form, conv.weight, moments, moments).factors.finite


@torch.no_grad()
def test_wide_layers_take_few_steps_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, _, (fit, held) = problem(padding=1)
    exact = solve_form(Bottleneck(8), conv.weight, fit, held)
    monkeypatch.setattr(variable_projection, "WIDE", 1)
    monkeypatch.setattr(variable_projection, "MOST_WORK", 1.0)
    quick = solve_form(Bottleneck(8), conv.weight, fit, held)
    assert exact.heldout_error < quick.heldout_error < 2 * exact.heldout_error


def test_weights_that_are_not_finite() -> None:
    weight = torch.full((8, 6, 3, 3), float("nan"))
    for form in FORMS:
        with pytest.raises(ConversionError, match="NaN"):
            factorize(form, weight, None)
