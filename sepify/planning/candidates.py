"""What a plan is made from: the forms that each convolution may take, their cost and damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sepify.capture.network import Network
from sepify.errors import FileError, PlanError
from sepify.factorize.solvers import solver_work
from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.plans.costs import Cost, standard_cost
from sepify.plans.equal_cost import forms_at_rank
from sepify.plans.form import Form
from sepify.plans.forms import FORMS, Keep, form_from_dict, form_to_dict
from sepify.plans.styles import Style
from sepify.storage import read_document, write_json

FORMAT = "sepify-measurements"
VERSION = 4  # 3 had an order and a rank for each candidate, 2 did not say what was held out
# Multiply-adds of one step of a solver: above this its least squares takes longer than everything
# else together. It leaves out pw-dw where dw-pw has the same cost at the same rank.
MOST_WORK = 3e8
SCOUTED = 2


@dataclass(frozen=True)
class Candidate:
    """A `form` that a convolution may take.

    `cost` is the cost then; `damage` the rise of the network's output loss, by the second-order
    estimate or, where `measured`, by running the network with this layer alone replaced.
    """

    form: Form
    cost: Cost
    damage: float
    measured: bool = False


@dataclass(frozen=True)
class Layer:
    """One choice to make: `names` are the convolutions that it is made for (those that share one
    weight go together); the first of `candidates` is to keep. `reason` says why there is no other.
    """

    names: tuple[str, ...]
    kernel: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    reason: str | None = None


@dataclass(frozen=True)
class Measurements:
    """Every convolution's candidates, in execution order; the loss in which damage is given; the
    images that judged it; bytes of the model's weights outside of its convolutions, and of one
    parameter; and which images had no part in them, as `Plan.heldout`."""

    layers: tuple[Layer, ...]
    loss: str
    images: int
    other_bytes: int
    bytes_each: int
    heldout: float | None = None

    def kept_only(self, refusals: Mapping[str, str]) -> Measurements:
        """The same, with each convolution in `refusals` kept for the reason given there."""
        return replace(self, layers=tuple(_restricted(layer, refusals) for layer in self.layers))

    def of_style(self, style: Style) -> Measurements:
        """The same with the candidates that `style` allows, and with the parameters that its
        BatchNorm has."""
        if style == "linear":
            return self
        return replace(self, layers=tuple(_of_style(layer, style) for layer in self.layers))


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
    kept = sum_costs([standard_cost(c, maps.get(c.name)) for c in group])
    names, kernel = tuple(c.name for c in group), group[0].kernel
    reason = _why_kept(group, maps)
    candidates = [Candidate(Keep(), kept, 0.0)]
    if reason is None:
        candidates += _rewrites(group, maps, kept)
        if len(candidates) == 1:
            reason = "no form is cheaper than the convolution"
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
        cost = sum_costs([form.cost(c, maps[c.name], bias=True) for c in group])
        if (cost.macs or 0) < (kept.macs or 0) or cost.params < kept.params:
            found.append(Candidate(form, cost, float("nan")))
    return found


def scouts(network: Network) -> dict[str, tuple[Form, ...]]:
    """For each convolution that can take several families of forms, one form of each at the cost of
    dw-pw at rank SCOUTED, by which the families are compared."""
    return {
        c.name: quick_forms_at_rank(SCOUTED, c, network.maps[c.name])
        for c in network.convolutions
        if c.obstacle is None and c.name in network.maps
    }


def quick_forms_at_rank(rank: int, convolution: Convolution, maps: Maps) -> tuple[Form, ...]:
    """Those of `forms_at_rank` whose solver does not take longer than everything else together."""
    kernel = convolution.kernel
    forms = forms_at_rank(rank, convolution, maps)
    return tuple(form for form in forms if solver_work(form, kernel) <= MOST_WORK)


def sum_costs(costs: Sequence[Cost]) -> Cost:
    """What they cost together."""
    macs = [cost.macs for cost in costs]
    moved = [cost.moved for cost in costs]
    return Cost(
        None if None in macs else sum(m or 0 for m in macs),
        sum(cost.params for cost in costs),
        None if None in moved else sum(m or 0 for m in moved),
    )


def save_measurements(measurements: Measurements, path: Path | str) -> None:
    """Write JSON, whole or not at all."""
    document = asdict(measurements)
    for layer, entry in zip(measurements.layers, document["layers"], strict=True):
        for candidate, row in zip(layer.candidates, entry["candidates"], strict=True):
            row["form"] = form_to_dict(candidate.form)
    write_json(path, {"format": FORMAT, "version": VERSION, **document})


def load_measurements(path: Path | str) -> Measurements:
    """Read them again. Raises FileError if it is not JSON, something else, or damaged."""
    advice = "sepify plan --measurements writes them"
    read = read_document(
        Measurements, path, FORMAT, VERSION, advice, {Form: _read_form}, {3: _from_version_3}
    )
    for number, layer in enumerate(read.layers, 1):
        fault = _fault(layer)
        if fault:
            raise FileError(f"{path} is damaged: layer {number} {fault}; {advice}")
    return read


def _read_form(value: Any, where: str) -> Form:
    if not isinstance(value, dict):
        raise FileError(f"{where} is {type(value).__name__}, not dict")
    try:
        return form_from_dict(value)
    except PlanError as error:
        raise FileError(f"{where}: {error}") from error


def _from_version_3(given: dict[str, Any]) -> dict[str, Any]:
    """Candidates with a form; what does not look like version 3 stays, to be refused later."""

    def candidate(row: Any) -> Any:
        if not isinstance(row, dict) or not {"order", "rank"} <= row.keys():
            return row
        rest = {key: value for key, value in row.items() if key not in ("order", "rank")}
        if row["order"] is None and row["rank"] is None:
            return {"form": {"form": "keep"}, **rest}
        return {"form": {"form": "separate", "order": row["order"], "rank": row["rank"]}, **rest}

    def layer(entry: Any) -> Any:
        if not isinstance(entry, dict) or not isinstance(entry.get("candidates"), list):
            return entry
        return {**entry, "candidates": [candidate(row) for row in entry["candidates"]]}

    layers = given.get("layers")
    if not isinstance(layers, list):
        return given
    return {**given, "layers": [layer(entry) for entry in layers]}


def _fault(layer: Layer) -> str | None:
    """What contradicts itself in a layer that was read."""
    if not layer.names:
        return "has no name"
    if not layer.candidates or layer.candidates[0].form.rewrites:
        return "has no candidate that keeps it"
    for candidate in layer.candidates:
        if candidate is not layer.candidates[0] and not candidate.form.rewrites:
            return "has two candidates that keep it"
        cost = candidate.cost
        numbers = (cost.macs, cost.params, cost.moved, cost.seconds)
        if any(number is not None and number < 0 for number in numbers):
            return "has a cost below 0"
    return None


def check_measurements(
    measurements: Measurements, kernels: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raise PlanError, naming the layer that differs, unless these are of a model with the given
    kernels by name."""
    known = {name: layer.kernel for layer in measurements.layers for name in layer.names}
    for name in [*known, *kernels]:
        if known.get(name) != kernels.get(name):
            raise PlanError(
                f"{where} is of another model: '{name}' has kernel {known.get(name, 'none')} there "
                f"and {kernels.get(name, 'none')} in this model"
            )


def _of_style(layer: Layer, style: Style) -> Layer:
    kept, *others = layer.candidates
    suited = [
        replace(c, cost=replace(c.cost, params=c.cost.params + len(layer.names) * added))
        for c in others
        for added in [c.form.style_params(layer.kernel, style)]
        if c.form.fault(layer.kernel, style) is None
    ]
    return replace(layer, candidates=(kept, *suited))


def _restricted(layer: Layer, refusals: Mapping[str, str]) -> Layer:
    reason = next((refusals[name] for name in layer.names if name in refusals), None)
    if reason is None:
        return layer
    return replace(layer, candidates=layer.candidates[:1], reason=reason)
