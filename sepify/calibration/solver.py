"""How the weights of a plan's layers are found, as options."""

from __future__ import annotations

from dataclasses import dataclass

from sepify.calibration.moments import MEMORY
from sepify.calibration.refine import Refinement
from sepify.errors import UsageError
from sepify.passes.pipelines import CONVERT, Pipeline
from sepify.plans.plan import METHODS, Method, Plan


@dataclass(frozen=True)
class Solver:
    """Options of `sepify.convert`.

    Attributes:
        method: "least-squares" on the outputs (the default where there are calibration images), or
            "svd" of the weights, which as a rule leaves a network that has to be trained again.
        refine: with least squares, improve each block further by gradient steps on its factors
            against the original block's output; False leaves it out, it is the longer part.
        memory: bytes for least squares; beyond it, values kept between layers go to a temporary
            file, and layers whose covariance would be too large are solved without one.
        holdout: share (below 1) or number of the calibration images that are held out of
            everything, to measure fidelity on; 0 for none, and then none is claimed; by default
            one in eight, at most 128, and none of fewer than 64.
        pipeline: the passes that carry the plan out, CONVERT or that with passes of your own.
    """

    method: Method | None = None
    refine: Refinement | bool = True
    memory: int = MEMORY
    holdout: float | None = None
    pipeline: Pipeline = CONVERT

    @property
    def refinement(self) -> Refinement | None:
        """The gradient steps, None for none."""
        return Refinement() if self.refine is True else self.refine or None

    def method_for(self, plan: Plan | None, *, calibrated: bool) -> Method:
        """The method asked for, or the plan's, or the best that the data allows.

        Raises:
            UsageError: it is not known, needs images that are not there, or has no use for other
                options that are given.
        """
        chosen = self.method or (plan.method if plan else None)
        if chosen not in (None, *METHODS):
            raise UsageError(f"method {chosen!r} is not known; choose one of {', '.join(METHODS)}")
        if chosen == "least-squares" and not calibrated:
            asked = "method" if self.method else "the plan's method"
            raise UsageError(f"{asked} 'least-squares' needs data: give calibration images")
        method: Method = chosen or ("least-squares" if calibrated else "svd")
        given = {"refine": not isinstance(self.refine, bool), "memory": self.memory != MEMORY}
        for name in given:
            if method == "svd" and given[name]:
                raise UsageError(
                    f"{name} is for method 'least-squares', not for 'svd': leave it out"
                )
        return method
