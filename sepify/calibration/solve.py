"""Solve every rewritten convolution of a plan: from its weights alone, or on calibration data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx, nn

from sepify.calibration.blocks import Block
from sepify.calibration.mobilenet_block import (
    activate,
    activate_blindly,
    fit_pointwise,
    judge_pointwise,
)
from sepify.calibration.moments import (
    HELDOUT,
    MEMORY,
    SplitMaps,
    SplitMomentSums,
    gather,
    require_finite,
    require_solved,
)
from sepify.calibration.refine import Refinement, refine_block
from sepify.calibration.replay import Edges, Feed, solve_in_step
from sepify.calibration.solver import Solver
from sepify.capture.network import Network, require_batches
from sepify.errors import CalibrationWarning, InputError
from sepify.factorize.factors import Factors, SeparableFactors
from sepify.factorize.solution import Solution
from sepify.factorize.solvers import factorize
from sepify.graph.batches import image_count
from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.graph.modules import leaf_around
from sepify.plans.form import Form
from sepify.plans.plan import Decision, Plan
from sepify.process.progress import Progress

FEW = 2  # positions for each element of a patch, below which the user is warned


def solve(
    network: Network,
    plan: Plan,
    solver: Solver,
    progress: Progress | None = None,
    choices: Mapping[str, Sequence[Form]] | None = None,
) -> tuple[dict[str, Factors], Plan]:
    """Factors for every rewritten convolution of `plan`, and the plan with what the solver found
    out: on the network's images, or from its weights alone where there are none or `plan` says so.

    On images, a convolution in `choices` takes the one of these forms that loses least on those
    held out of the fit.

    A network with a state of its own is not refined. Raises what `solve_on_data` raises.
    """
    if plan.method != "least-squares" or network.batches is None:
        return solve_by_svd(network.graph_module, plan), plan
    refinement = None if network.captured.keeps else solver.refinement
    return solve_on_data(network, plan, progress, refinement, solver.memory, choices)


def solve_on_data(
    prepared: Network,
    plan: Plan,
    progress: Progress | None = None,
    refinement: Refinement | None = None,
    memory: int = MEMORY,
    choices: Mapping[str, Sequence[Form]] | None = None,
) -> tuple[dict[str, Factors], Plan]:
    """Least-squares factors for every rewritten convolution of `plan`, and the plan with each
    layer's relative squared output error, on the fitted and on the held-out images; `choices` as
    for `solve`.

    `memory` bounds, in bytes, what is kept between layers (beyond it,
    values go to a temporary file) and the statistics of one layer (beyond it, the layer is solved
    on its maps). Raises InputError if there are fewer than 16 images; warns (CalibrationWarning)
    of layers with far fewer positions than unknowns, and of those that could not be refined.
    """
    original, batches = prepared.graph_module, require_batches(prepared)
    images = image_count(batches)
    if images < 2 * HELDOUT:
        raise InputError(
            f"{images} calibration images are too few: least squares needs at least "
            f"{2 * HELDOUT}, and a few hundred to be good; or use method='svd'"
        )
    leaves = {decision.name: leaf_around(original, decision.name) for decision in plan.rewritten}
    reached = [name for name, leaf in leaves.items() if leaf is None]
    network = prepared.to_solve(reached)
    work = _Work(
        network,
        plan,
        images,
        memory,
        refinement or Refinement(),
        progress,
        choices or {},
        {convolution.name: convolution for convolution in prepared.convolutions},
        prepared.maps,
    )
    refiner = None if refinement is None else work.refine
    factors = solve_in_step(network, reached, batches, work.solve, refiner, memory)
    for name, leaf in leaves.items():
        if leaf is not None:  # no value inside a module that is called as a whole can be seen
            conv = original.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            factors[name] = _from_weights(conv, plan[name], plan.ceiling)
            work.remark(name, f"inside '{leaf}', so solved from its weights alone")
    work.tell("solved", len(reached))
    for why in dict.fromkeys(work.unrefined.values()):
        names = ", ".join(name for name, told in work.unrefined.items() if told == why)
        warnings.warn(f"{names}: {why}", CalibrationWarning, stacklevel=5)
    if work.starved:
        warnings.warn(
            f"few positions for the elements of a patch in {', '.join(work.starved)}: solved with "
            "more damping; more calibration images would bring these layers closer",
            CalibrationWarning,
            stacklevel=6,
        )
    return factors, replace(plan, decisions=tuple(work.noted(decision) for decision in plan))


@dataclass
class _Work:
    """What is found out while the networks are walked: the solver and the refiner of a walk."""

    network: fx.GraphModule
    plan: Plan
    images: int
    memory: int
    refinement: Refinement
    progress: Progress | None
    choices: Mapping[str, Sequence[Form]]
    convolutions: Mapping[str, Convolution]
    maps: Mapping[str, Maps]
    solutions: dict[str, Solution] = field(default_factory=dict)
    block_errors: dict[str, float] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)  # for the plan's reasons
    unrefined: dict[str, str] = field(default_factory=dict)  # and why
    starved: list[str] = field(default_factory=list)  # layers with few positions, in words
    firsts: dict[int, str] = field(default_factory=dict)  # by weight: sharers go on sharing
    forms: dict[str, Form] = field(default_factory=dict)  # chosen

    def solve(self, name: str, conv: nn.Conv2d, for_each_batch: Callable[[Feed], None]) -> Factors:
        """The factors of one convolution."""
        self.tell(f"solving {name}", len(self.solutions))
        seen = gather(conv, self.images, self.memory)
        for_each_batch(seen.add)
        require_finite(name, seen)
        first = self.firsts.setdefault(id(conv.weight), name)
        tied = None if first == name else self.solutions[first].factors
        ceiling, on = self.plan.ceiling, (conv, for_each_batch, self.images, self.memory)
        if isinstance(tied, SeparableFactors) and tied.between is not None:
            solution = judge_pointwise(tied, *on)
        elif tied is not None:
            solution = seen.judge(tied)
        else:
            solution = self._best(name, conv, seen)
            if ceiling is not None:
                assert isinstance(solution.factors, SeparableFactors)
                solution = fit_pointwise(
                    activate(solution.factors, conv, ceiling, for_each_batch), *on
                )
        require_solved(name, solution)
        self.forms[name] = self.forms.get(first, self.plan[name].form)
        self.solutions[name] = solution
        if seen.told:
            self.remark(name, seen.told)
        unknowns = conv.weight[0].numel()
        if seen.positions < FEW * unknowns:
            self.starved.append(f"{name} ({seen.positions:,} for {unknowns:,})")
        return solution.factors

    def _best(self, name: str, conv: nn.Conv2d, seen: SplitMomentSums | SplitMaps) -> Solution:
        """The solution of the form that loses least, which is noted."""
        forms = self.choices.get(name) or (self.plan[name].form,)
        solved = seen.solve(forms, conv)
        best = min(solved, key=lambda form: solved[form].heldout_error)
        self.forms[name] = best
        others = [f"{f.words} {solved[f].heldout_error:.1%}" for f in forms if f is not best]
        if others:
            self.remark(name, f"loses {solved[best].heldout_error:.1%}, {', '.join(others)}")
        return solved[best]

    def refine(self, block: Block, edges: Edges, inside: dict[str, Factors]) -> dict[str, Factors]:
        """The factors of one block, improved together."""
        first = block.names[0]

        def tell(step: int, steps: int) -> None:
            self.tell(f"refining from {first}, step {step} of {steps}", len(self.solutions))

        refined = refine_block(self.network, block, edges, inside, self.refinement, tell)
        for name in block.names:
            if refined.heldout_error is not None:
                self.block_errors[name] = refined.heldout_error
            if refined.told is not None:
                self.unrefined[name] = refined.told
                self.remark(name, refined.told)
        return refined.factors

    def remark(self, name: str, what: str) -> None:
        """Note something for the reason of a layer in the plan."""
        self.remarks[name] = "; ".join(filter(None, (self.remarks.get(name), what)))

    def tell(self, what: str, done: int) -> None:
        """Report progress, if anybody listens."""
        if self.progress is not None:
            self.progress(what, done, len(self.plan.rewritten))

    def noted(self, decision: Decision) -> Decision:
        """`decision` with what was found; a solved bias may be a parameter that was not there."""
        name = decision.name
        if name in self.remarks:
            decision = replace(decision, reason=f"{decision.reason}; {self.remarks[name]}")
        if name not in self.solutions:
            return decision
        solution = self.solutions[name]
        decision = self._chosen(decision)
        return replace(
            decision,
            after=replace(decision.after, params=solution.factors.params),
            error=solution.fitted_error,
            heldout_error=solution.heldout_error,
            block_error=self.block_errors.get(name),
        )

    def _chosen(self, decision: Decision) -> Decision:
        """`decision` with the form that was chosen, and its cost."""
        form = self.forms[decision.name]
        if form == decision.form:
            return decision
        convolution, at = self.convolutions[decision.name], self.maps.get(decision.name)
        return replace(decision, form=form, after=form.cost(convolution, at, bias=True))


def solve_by_svd(original: fx.GraphModule, plan: Plan) -> dict[str, Factors]:
    """Factors for every rewritten convolution of `plan` from the weights alone."""
    factors = {}
    for decision in plan.rewritten:
        conv = original.get_submodule(decision.name)
        assert isinstance(conv, nn.Conv2d)
        factors[decision.name] = _from_weights(conv, decision, plan.ceiling)
    return factors


def _from_weights(conv: nn.Conv2d, decision: Decision, ceiling: float | None) -> Factors:
    start = factorize(decision.form, conv.weight, conv.bias)
    if ceiling is None:
        return start
    assert isinstance(start, SeparableFactors)
    return activate_blindly(start, ceiling)
