"""What the user can afford: one number, with its unit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from sepify.errors import UsageError

Quantity = Literal["macs", "params", "size_mb", "latency", "accuracy_drop", "agreement"]
QUANTITIES: tuple[Quantity, ...] = (
    "macs",
    "params",
    "size_mb",
    "latency",
    "accuracy_drop",
    "agreement",
)
# Quantities that bound what is lost, and leave the cost to be as low as that allows
OF_LOSS: tuple[Quantity, ...] = ("accuracy_drop", "agreement")

Amount = int | float | str

_COUNTS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_EXAMPLES = {
    "macs": "0.35, '35%' or an absolute '6.5M'",
    "params": "0.35, '35%' or an absolute '250k'",
    "latency": "0.5, '50%' or an absolute '2.5ms'",
    "agreement": "0.98 or '98%'",
}


class Farm(Protocol):
    """Boards to time on; `sepify.compiling.find_farm` makes one."""

    @property
    def key(self) -> str:
        """Under which a tracker knows the boards."""

    @property
    def session(self) -> float:
        """Seconds that timing a few networks may take."""


@dataclass(frozen=True)
class Limit:
    """`value` is a share of what the original costs, or in the quantity's own unit."""

    value: float
    share: bool

    def of(self, original: float) -> float:
        """The limit in the quantity's own unit."""
        return self.value * original if self.share else self.value


@dataclass(frozen=True)
class Budget:
    """What a plan must meet; exactly one of these:

    macs           multiply-adds of all convolutions for an image: a share of the original's (0.35
                   or "35%"), or absolute (a whole number, or "6.5M")
    params         parameters of all convolutions, likewise ("250k")
    size_mb        the weights of the whole model, in 10^6 bytes
    latency        of all convolutions for one image on `target`: a share, or "2.5ms"
    accuracy_drop  points of top-1 on labelled images, or of agreement with the original
    agreement      the share of images, 0.98 or "98%", that must get the original's answer; for
                   outputs that are no classes, their squared error over their variance is at most
                   half of what is left of 1

    `target` is "onnxruntime" or a target of `sepify.compile`: this machine's, or that of the board
    that `farm` names, from `sepify.compiling.find_farm`. `labelled` are the images and labels for
    `accuracy_drop`; without them, and for `agreement`, agreement with the original counts, on the
    half of the calibration images that is not planned by.

    Raises UsageError for none or several, for 0, and for more than 1 without a unit.
    """

    macs: Amount | None = None
    params: Amount | None = None
    size_mb: float | None = None
    latency: Amount | None = None
    accuracy_drop: float | None = None
    agreement: Amount | None = None
    target: str | None = None
    labelled: tuple[Tensor, Tensor] | None = field(default=None, compare=False, repr=False)
    farm: Farm | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        given = [name for name in QUANTITIES if getattr(self, name) is not None]
        if len(given) != 1:
            told = " and ".join(given) or "nothing"
            raise UsageError(
                f"a budget is exactly one of {', '.join(QUANTITIES)}; this one gives {told}"
            )
        if (self.target is not None) != (self.latency is not None):
            raise UsageError("latency and target go together: latency='50%', target='native'")
        if self.labelled is not None and self.accuracy_drop is None:
            raise UsageError("labelled data is for a budget in accuracy_drop; this one needs none")
        if self.farm is not None and self.target is None:
            raise UsageError(
                "a board is for a budget in latency, such as latency=50%@raspberry-pi-4; this one "
                "needs none"
            )
        _ = self.limit

    @property
    def quantity(self) -> Quantity:
        """Which of the numbers is given."""
        return next(name for name in QUANTITIES if getattr(self, name) is not None)

    @property
    def limit(self) -> Limit:
        """The number, read."""
        quantity = self.quantity
        value = getattr(self, quantity)
        if quantity == "latency":
            return _read(quantity, value, _TIMES, whole=False)
        if quantity in ("macs", "params"):
            return _read(quantity, value, _COUNTS, whole=True)
        if quantity == "agreement":
            return _read(quantity, value, {}, whole=False)
        return Limit(_positive(quantity, value), share=False)

    @property
    def points(self) -> float:
        """What may be lost, in points; of a budget in `accuracy_drop` or `agreement`."""
        value = self.limit.value
        return 100 * (1 - value) if self.quantity == "agreement" else value

    def __str__(self) -> str:
        at = f" on {self.target}" if self.target else ""
        return f"{self.quantity} {getattr(self, self.quantity)}{at}"


def read_budget(text: str) -> Budget:
    """A budget as it is written at a shell: "macs=35%", "params=250k", "size_mb=1.5",
    "latency=50%@native", "accuracy_drop=0.5", "agreement=98%". Raises UsageError."""
    name, equals, value = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or name not in QUANTITIES:
        raise UsageError(
            f"budget {text!r} is not understood; write it as macs=35%, params=250k, size_mb=1.5, "
            "latency=50%@native, accuracy_drop=0.5 or agreement=98%"
        )
    value, _, target = (part.strip() for part in value.partition("@"))
    if name in ("size_mb", "accuracy_drop"):
        number = _number(value)
        if number is None or target:
            raise UsageError(f"budget {text!r} is not understood: {name} is a plain number")
        return Budget(**{name: number})  # type: ignore[arg-type]
    return Budget(**{name: value}, target=target or None)  # type: ignore[arg-type]


def _read(quantity: str, value: Amount, units: dict[str, float], whole: bool) -> Limit:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(%|[a-zA-Z]*)\s*", value)
        number = _number(match[1]) if match else None
        unit = match[2] if match else ""
        if number is None or (unit != "%" and unit not in ("", *units)):
            raise UsageError(f"{quantity} {value!r} is not understood; {_give(quantity)}")
        if unit == "%":
            return _share(quantity, number / 100, value)
        if unit:
            return Limit(_positive(quantity, number) * units[unit], share=False)
        return _share(quantity, number, value)
    if whole and isinstance(value, int) and not isinstance(value, bool) and value > 1:
        return Limit(float(value), share=False)
    return _share(quantity, _positive(quantity, value), value)


def _share(quantity: str, value: float, given: Amount) -> Limit:
    if not 0 < value <= 1:
        raise UsageError(
            f"{quantity} {given!r} is no share between 0 and 1 and has no unit; {_give(quantity)}"
        )
    return Limit(value, share=True)


def _positive(quantity: str, value: object) -> float:
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not ok or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type, operator]
        raise UsageError(f"{quantity} {value!r} is no budget: give a number above 0")
    return float(value)  # type: ignore[arg-type]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _give(quantity: str) -> str:
    return f"give {_EXAMPLES[quantity]}"
