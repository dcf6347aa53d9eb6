"""What was quantised, what was not, and what it cost: the record of a quantised network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sepify.judging.fidelity import Fidelity
from sepify.plans.plan import Plan
from sepify.plans.precision import Precision


@dataclass(frozen=True)
class LayerPrecision:
    """One layer: its path, its precision, the relative squared error of its output against the
    given network's on calibration images that it was not fitted to, and why it stays in float32 if
    it does. `widened` says how much wider the map before it was scaled than its range asked for,
    where that was chosen (see `sepify.quantising.scales.widened`)."""

    name: str
    precision: Precision
    reason: str = ""
    error: float | None = None
    widened: float | None = None


@dataclass(frozen=True)
class Quantisation:
    """Found as `quantised.meta["sepify"]`.

    Attributes:
        layers: every convolution and linear layer, in execution order.
        values: how many activations are rounded to u8.
        others: operators that are computed in float32 between layers, with their number.
        notes: what the user should know, a sentence each.
        fidelity: to the given network, on calibration images that were held out of everything; None
            where there were too few, for the reason in `unjudged`.
        plan: the plan of a network that was converted, with the precision of each convolution.
    """

    layers: tuple[LayerPrecision, ...]
    values: int
    others: Mapping[str, int]
    notes: tuple[str, ...] = ()
    fidelity: Fidelity | None = None
    unjudged: str = ""
    plan: Plan | None = None

    @property
    def quantised(self) -> tuple[LayerPrecision, ...]:
        """The layers whose weights are integers."""
        return tuple(layer for layer in self.layers if layer.precision != "float32")

    @property
    def floating(self) -> tuple[LayerPrecision, ...]:
        """The layers that stayed in float32, each with its reason."""
        return tuple(layer for layer in self.layers if layer.precision == "float32")

    @property
    def summary(self) -> str:
        """One sentence for a person."""
        kinds = Counter(layer.precision for layer in self.quantised)
        parts = " and ".join(f"{count} in {name}" for name, count in kinds.items())
        said = f"{len(self.quantised)} of {len(self.layers)} layers quantised ({parts or 'none'})"
        said += f", {self.values} activations in 8 bits"
        if self.floating:
            first = self.floating[0]
            said += f"; {len(self.floating)} in float32 ({first.name}: {first.reason})"
        return said

    def with_plan(self, plan: Plan) -> Quantisation:
        """The same with the plan of the network that was quantised."""
        return replace(self, plan=plan)
