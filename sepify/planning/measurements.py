"""What a plan is made from: each convolution's candidates, their cost and their damage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sepify.errors import FileError, PlanError
from sepify.plans.forms import Order
from sepify.plans.plan import Cost, Style
from sepify.storage import read_document, write_json

FORMAT = "sepify-measurements"
VERSION = 3  # 2 did not say what was held out


@dataclass(frozen=True)
class Candidate:
    """What may be done to a convolution: keep it (`order` and `rank` None), or separate it.

    `cost` is the cost then; `damage` the rise of the network's output loss, by the second-order
    estimate or, where `measured`, by running the network with this layer alone replaced.
    """

    order: Order | None
    rank: int | None
    cost: Cost
    damage: float
    measured: bool = False

    @property
    def words(self) -> str:
        """ "kept", or order and rank."""
        return "kept" if self.rank is None else f"{self.order} at rank {self.rank}"


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
        return replace(self, layers=tuple(_with_batchnorm(layer) for layer in self.layers))


def _with_batchnorm(layer: Layer) -> Layer:
    kept, *others = layer.candidates
    each = 2 * len(layer.names) * (layer.kernel[1] if layer.kernel else 0)
    depthwise_first = [
        replace(c, cost=replace(c.cost, params=c.cost.params + each * (c.rank or 0)))
        for c in others
        if c.order == "dw-pw"
    ]
    return replace(layer, candidates=(kept, *depthwise_first))


def _restricted(layer: Layer, refusals: Mapping[str, str]) -> Layer:
    reason = next((refusals[name] for name in layer.names if name in refusals), None)
    if reason is None:
        return layer
    return replace(layer, candidates=layer.candidates[:1], reason=reason)


def save_measurements(measurements: Measurements, path: Path | str) -> None:
    """Write JSON, whole or not at all."""
    write_json(path, {"format": FORMAT, "version": VERSION, **asdict(measurements)})


def load_measurements(path: Path | str) -> Measurements:
    """Read them again. Raises FileError if it is not JSON, something else, or damaged."""
    advice = "sepify plan --measurements writes them"
    read = read_document(Measurements, path, FORMAT, VERSION, advice)
    for number, layer in enumerate(read.layers, 1):
        fault = _fault(layer)
        if fault:
            raise FileError(f"{path} is damaged: layer {number} {fault}; {advice}")
    return read


def _fault(layer: Layer) -> str | None:
    """What contradicts itself in a layer that was read."""
    if not layer.names:
        return "has no name"
    if not layer.candidates or layer.candidates[0].rank is not None:
        return "has no candidate that keeps it"
    for candidate in layer.candidates:
        if (candidate.order is None) != (candidate.rank is None) or (candidate.rank or 1) < 1:
            return f"has a candidate of order {candidate.order} and rank {candidate.rank}"
        if candidate is not layer.candidates[0] and candidate.rank is None:
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
