"""Which forms are worth looking at for a convolution, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sepify.factorize.solvers import solver_work
from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.planning.measurements import Candidate, Layer
from sepify.plans.costs import Cost, standard_cost
from sepify.plans.forms import FORMS, Keep

# Multiply-adds of one step of a solver: above this its least squares takes longer than everything
# else together. It leaves out pw-dw where dw-pw has the same cost at the same rank.
MOST_WORK = 3e8


def list_layers(convolutions: Sequence[Convolution], maps: Mapping[str, Maps]) -> tuple[Layer, ...]:
    """One layer for each convolution, those that share a weight together, with the candidates that
    are cheaper than to keep it, in multiply-adds or in parameters. Damage is not known yet: NaN.
    """
    groups: dict[object, list[Convolution]] = {}
    for convolution in convolutions:
        eligible = convolution.obstacle is None and convolution.module is not None
        key = id(convolution.module.weight) if eligible and convolution.module else convolution.name
        groups.setdefault(key, []).append(convolution)
    return tuple(_layer(group, maps) for group in groups.values())


def _layer(group: Sequence[Convolution], maps: Mapping[str, Maps]) -> Layer:
    kept = _sum([standard_cost(c, maps.get(c.name)) for c in group])
    names, kernel = tuple(c.name for c in group), group[0].kernel
    reason = _why_kept(group, maps)
    candidates = [Candidate(Keep(), kept, 0.0)]
    if reason is None:
        candidates += _rewrites(group, maps, kept)
        if len(candidates) == 1:
            reason = "no order and rank is cheaper than the convolution"
    return Layer(names, kernel, tuple(candidates), reason)


def _why_kept(group: Sequence[Convolution], maps: Mapping[str, Maps]) -> str | None:
    for convolution in group:
        if convolution.obstacle is not None:
            return convolution.obstacle
        if convolution.leaf is not None:
            return f"inside '{convolution.leaf}', which is called as a whole: nothing is measured"
        if convolution.name not in maps:
            return "not called on the example input"
        if not any(node.users for node in convolution.nodes):
            return "nothing uses its output"
    return None


def _rewrites(
    group: Sequence[Convolution], maps: Mapping[str, Maps], kept: Cost
) -> list[Candidate]:
    kernel = group[0].kernel
    found = []
    for form in (form for kind in FORMS.values() for form in kind.candidates(kernel)):
        if solver_work(form, kernel) > MOST_WORK:
            continue
        cost = _sum([form.cost(c, maps[c.name], bias=True) for c in group])
        if (cost.macs or 0) < (kept.macs or 0) or cost.params < kept.params:
            found.append(Candidate(form, cost, float("nan")))
    return found


def _sum(costs: Sequence[Cost]) -> Cost:
    macs = [cost.macs for cost in costs]
    moved = [cost.moved for cost in costs]
    return Cost(
        None if None in macs else sum(m or 0 for m in macs),
        sum(cost.params for cost in costs),
        None if None in moved else sum(m or 0 for m in moved),
    )
