"""Sizes between those that were measured: their damage is read off the ladder.

Of two neighbours on a ladder the damage falls about as a power of the channels, so that between
them its logarithm is a straight line over theirs. What a plan then chooses is measured as a whole,
and the sizes beside it with it (`search.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from math import exp, log

from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.planning.candidates import Candidate, Layer, Measurements, sum_costs
from sepify.plans.chains import Chain
from sepify.plans.costs import Cost

LEAST = 1e-12  # damage whose logarithm is taken


def with_sizes_between(
    measurements: Measurements,
    convolutions: Mapping[str, Convolution],
    maps: Mapping[str, Maps],
) -> Measurements:
    """`measurements` with two sizes more between neighbours of a chain's ladder; their latency, if
    there is one, is on a straight line over the channels."""
    layers = tuple(_finer(layer, convolutions, maps) for layer in measurements.layers)
    return replace(measurements, layers=layers)


def ladder(layer: Layer, family: str) -> list[int]:
    """The numbers of the candidates of `family`, from the smallest up."""
    found = [k for k, c in enumerate(layer.candidates) if k and c.form.family == family]
    return sorted(found, key=lambda k: layer.candidates[k].form.step)


def _finer(
    layer: Layer, convolutions: Mapping[str, Convolution], maps: Mapping[str, Maps]
) -> Layer:
    added: list[Candidate] = []
    families = {c.form.family for c in layer.candidates if isinstance(c.form, Chain)}
    for family in sorted(families):
        steps = [layer.candidates[k] for k in ladder(layer, family)]
        for low, high in itertools.pairwise(steps):
            assert isinstance(low.form, Chain)
            assert isinstance(high.form, Chain)
            for form in low.form.between(high.form):
                costs = [form.cost(convolutions[n], maps[n], bias=True) for n in layer.names]
                added.append(_interpolated(form, sum_costs(costs), low, high))
    return replace(layer, candidates=(*layer.candidates, *added))


def _interpolated(form: Chain, cost: Cost, low: Candidate, high: Candidate) -> Candidate:
    place = log(form.step / low.form.step) / log(high.form.step / low.form.step)
    ends = [log(max(each.damage, LEAST)) for each in (low, high)]
    damage = exp(ends[0] + place * (ends[1] - ends[0]))
    seconds = None
    if low.cost.seconds is not None and high.cost.seconds is not None:
        share = (form.step - low.form.step) / (high.form.step - low.form.step)
        seconds = low.cost.seconds + share * (high.cost.seconds - low.cost.seconds)
    return Candidate(form, replace(cost, seconds=seconds), damage)
