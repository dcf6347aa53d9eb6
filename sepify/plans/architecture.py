"""What a converted network is to look like, but for the ranks of its layers."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.errors import UsageError
from sepify.plans.equal_cost import Family
from sepify.plans.plan import Plan
from sepify.plans.resolution import Size
from sepify.plans.styles import Style
from sepify.process.renamed import renamed


@dataclass(frozen=True)
class Architecture:
    """Options of `sepify.convert` and `sepify.plan`; None leaves each to the plan, or the default.

    Attributes:
        form: "dw-pw", "pw-dw", "bottleneck" or "spatial" in every layer, at the multiply-adds of
            dw-pw at the rank; None for whichever of them suits each layer best, which calibration
            images tell, and dw-pw without any.
        style: "linear" (the default), or "mobilenet" or "mobilenet-relu6": BatchNorm and ReLU or
            ReLU6 between depthwise and pointwise, a network that is to be trained: `distill`.
        width: the share of the channels of every layer to go on with, by importance, rounded to
            multiples of 8; to be trained likewise (Howard et al. 2017, section 3.3).
        resolution: of the images: a share such as 0.714, pixels of the shorter side, or
            (height, width); costs, calibration and distillation are at this size.
        costlier: without a budget, separate even what costs more by it (full rank, say).
    """

    form: Family | None = None
    style: Style | None = None
    width: float | None = None
    resolution: float | Size | None = None
    costlier: bool = False

    def beside(self, plan: Plan | None) -> Settled:
        """Style, width and resolution, which a plan brings along.

        Raises:
            UsageError: both say something, and not the same.
        """
        if plan is None:
            width = 1.0 if self.width is None else self.width
            return Settled(self.style or "linear", width, self.resolution)
        for name in ("style", "width", "resolution"):
            value, planned = getattr(self, name), getattr(plan, name)
            if value is not None and value != planned:
                raise UsageError(
                    f"{name} {value!r} contradicts the plan, which says {planned!r}: leave it out, "
                    "or change the plan"
                )
        return Settled(plan.style, plan.width, plan.resolution)


Architecture.__init__ = renamed(order="form=...")(Architecture.__init__)  # type: ignore[method-assign]


@dataclass(frozen=True)
class Settled:
    """An architecture with nothing left open."""

    style: Style
    width: float
    resolution: float | Size | None

    @property
    def resized(self) -> bool:
        """Whether layers or images have another size than the original's."""
        return self.width != 1 or self.resolution is not None
