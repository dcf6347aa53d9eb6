"""The plan: for every convolution, what is done to it and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NoReturn

from sepify.errors import PlanError, UsageError
from sepify.plans.costs import Cost, require_numbers
from sepify.plans.form import Form
from sepify.plans.forms import Keep
from sepify.plans.precision import PRECISIONS, Precision
from sepify.plans.styles import CEILINGS, Style, shape_words

Method = Literal["svd", "least-squares"]
METHODS: tuple[Method, ...] = ("svd", "least-squares")
_FORMER = {"action": "form.kind", "order": "form.order", "rank": "form.rank"}


@dataclass(frozen=True)
class Decision:
    """What is done to one convolution: the `form` that it takes (`Keep()` or `Separate(order,
    rank)`), and the reason in words.

    `error` is the relative squared error predicted for the rewritten layer: of its weights for
    the SVD, of its outputs on the fitted images for least squares; `heldout_error` is that of its
    outputs on calibration images held out of the fit, and `block_error`, where blocks were
    refined, that of the output of the block around it, refined. All None for a layer that is kept.
    `damage` is what planning expects the decision to add to the loss of the network's outputs.
    `precision` is that of the layers that it becomes. `line` is where the decision stands in the
    file that it was read from.

    Raises PlanError where the form is none, and where an error or the damage is not a finite
    number.
    """

    name: str
    form: Form
    reason: str
    kernel: tuple[int, ...]  # (N, M, kh, kw): out channels, in channels per group, kernel
    before: Cost
    after: Cost
    error: float | None = None
    heldout_error: float | None = None
    block_error: float | None = None
    damage: float | None = None
    precision: Precision = "float32"
    line: int | None = field(default=None, compare=False, repr=False)

    @property
    def where(self) -> str:
        """The layer, and the line of the plan file if there is one, for messages."""
        return f"'{self.name}'" + (f" (line {self.line} of the plan)" if self.line else "")

    def __post_init__(self) -> None:
        if not isinstance(self.form, Form):
            raise PlanError(
                f"plan entry '{self.name}': {self.form!r} is no form; give Keep() or "
                "Separate(order, rank)"
            )
        if self.precision not in PRECISIONS:
            raise PlanError(
                f"plan entry '{self.name}': precision {self.precision!r} is none of "
                f"{', '.join(PRECISIONS)}"
            )
        notes = ("error", "heldout_error", "block_error", "damage")
        require_numbers(f"plan entry '{self.name}'", {name: vars(self)[name] for name in notes})

    if not TYPE_CHECKING:  # a type checker is to know the attributes

        def __getattr__(self, name: str) -> NoReturn:
            if name in _FORMER:
                raise UsageError(f"Decision.{name} is now Decision.{_FORMER[name]}")
            raise AttributeError(f"a Decision has no {name!r}")


@dataclass(frozen=True)
class Outlook:
    """What is expected of a plan that was made for a budget.

    `limit` and `reached` are in the budget's own unit (MACs, parameters, bytes, seconds, points).
    Damage is the loss of the network's outputs on calibration data, before the factors are refined:
    `loss` "kl" in nats or "relative" to the outputs' variance; `predicted` by adding up the layers,
    `measured` on the plan as a whole. `gap` is the relative distance of the predicted damage to the
    bound that the solver proved: not 0 where another plan than the solver's measured best.
    `verified` says how an accuracy budget was checked.
    """

    budget: str
    limit: float
    reached: float
    loss: str
    predicted: float
    measured: float
    gap: float
    rounds: int
    verified: str | None = None

    def __post_init__(self) -> None:
        words = ("budget", "loss", "verified")
        numbers = {name: value for name, value in vars(self).items() if name not in words}
        require_numbers("a plan's outlook", numbers)


@dataclass(frozen=True)
class Plan:
    """Decisions in execution order, and how the weights were (to be) found.

    `method` names the solver of the factors, None while no conversion has chosen one; `batchnorm`
    says whether BatchNorm statistics were re-estimated on calibration data afterwards; `outlook` is
    there for a plan that a budget asked for.

    `style` says what stands between depthwise and pointwise: nothing ("linear"), or BatchNorm and
    ReLU or ReLU6, as in a MobileNet block. `width` is the share of channels that the network was
    thinned to before anything else, and `resolution` the (height, width) in pixels of the images
    that it is for, None where it is that of the original.

    `heldout` says which images nothing was fitted to, nor chosen by: those whose mark
    (`sepify/judging/heldout.py`) is below it; None where no image is known to be one.
    """

    decisions: tuple[Decision, ...]
    method: Method | None = None
    batchnorm: bool = False
    outlook: Outlook | None = None
    style: Style = "linear"
    width: float = 1.0
    resolution: tuple[int, int] | None = None
    heldout: float | None = None

    def __iter__(self) -> Iterator[Decision]:
        return iter(self.decisions)

    def __getitem__(self, name: str) -> Decision:
        """The decision for the convolution at module path `name`; KeyError if there is none."""
        for decision in self.decisions:
            if decision.name == name:
                return decision
        raise KeyError(name)

    @property
    def ceiling(self) -> float | None:
        """The upper limit of the ReLU between depthwise and pointwise; None without one."""
        return CEILINGS[self.style]

    @property
    def changes(self) -> bool:
        """Whether the network becomes another one: something is rewritten, or all is thinned."""
        return bool(self.rewritten) or self.width < 1

    @property
    def fitted(self) -> bool:
        """Whether images had a part in it: by the solver, BatchNorm, or the choice of the plan."""
        return self.method == "least-squares" or self.batchnorm or self.outlook is not None

    @property
    def shape(self) -> str:
        """Style, width and resolution in words."""
        return shape_words(self.style, self.width, self.resolution)

    @property
    def rewritten(self) -> tuple[Decision, ...]:
        """The decisions that make another module of a convolution."""
        return tuple(d for d in self.decisions if d.form.rewrites)

    @property
    def kept(self) -> tuple[Decision, ...]:
        """The decisions that leave a convolution as it is."""
        return tuple(d for d in self.decisions if isinstance(d.form, Keep))
