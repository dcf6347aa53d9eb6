"""plan_to_budget(): measure the candidates, choose among them exactly, correct, explain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sepify.capture.network import Network, require_batches
from sepify.errors import UsageError
from sepify.graph.batches import Batch
from sepify.graph.convolutions import Convolution, rewritable
from sepify.graph.maps import Maps
from sepify.planning.accuracy_target import CheckImages, check_images_of, meet_accuracy_target
from sepify.planning.candidates import Measurements, check_measurements, list_layers, scouts
from sepify.planning.explain import decide
from sepify.planning.knapsack import CostTable, cost_table, limit_of
from sepify.planning.ladders import with_sizes_between
from sepify.planning.latency import LatencyTable, check_table, measure_latencies, with_latencies
from sepify.planning.search import (
    FINAL_IMAGES,
    QUICK,
    best_measured,
    chosen_forms,
    competing_plans,
    run_rounds,
)
from sepify.planning.trials import MOST_IMAGES, Trials, set_up_trials, take_images
from sepify.planning.uniform import Filter, refusals
from sepify.plans.budget import OF_LOSS, Budget
from sepify.plans.costs import Cost
from sepify.plans.plan import Outlook, Plan
from sepify.plans.styles import Style
from sepify.process.progress import Progress, silent
from sepify.timing.layers import open_stopwatch

if TYPE_CHECKING:
    from sepify.compiling.device.boards import Farm

Picks = tuple[int, ...]  # the candidate that each layer takes


@dataclass(frozen=True)
class Known:
    """What earlier work has left: nothing in it is measured again. `save_measurements` and
    `save_latencies` are called with what is new, as soon as it is there."""

    measurements: Measurements | None = None
    latencies: LatencyTable | None = None
    save_measurements: Callable[[Measurements], None] | None = None
    save_latencies: Callable[[LatencyTable], None] | None = None

    def apart_from(self, below: float | None) -> Known:
        """The same; what is saved says that images below this mark had no part in it."""
        save = self.save_measurements
        if save is None:
            return self
        return replace(self, save_measurements=lambda new: save(replace(new, heldout=below)))

    def least(self, below: float | None) -> float | None:
        """The mark below which no image had a part in the earlier work either, None for none."""
        if self.measurements is None or below is None:
            return below
        earlier = self.measurements.heldout
        return None if earlier is None else min(below, earlier)


def plan_to_budget(
    network: Network,
    budget: Budget,
    *,
    keep: Sequence[str] = (),
    filter_fn: Filter | None = None,
    labelled: tuple[Tensor, Tensor] | None = None,
    style: Style = "linear",
    known: Known | None = None,
    farm: Farm | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan within `budget` that damages the outputs of `network` least. Latencies are those of
    a board of `farm`, or of this machine without one.

    Raises PlanError where the budget cannot be met (saying the least possible), a `keep` pattern
    matches nothing or what is `known` is of another model, target or machine; InputError for too
    few images; UsageError for a target or an accuracy drop that makes no sense here; DeviceError
    where the board is lost.
    """
    note = progress or silent
    known = known or Known()
    if labelled is not None and budget.quantity != "accuracy_drop":
        raise UsageError("labelled data is for a budget in accuracy_drop; this one needs none")
    if farm is not None and budget.target is None:
        raise UsageError(
            "a board is for a budget in latency, such as latency=50%@raspberry-pi-4; this one "
            "needs none"
        )
    convolutions, batches = network.convolutions, require_batches(network)
    refused = refusals(convolutions, keep, filter_fn)
    if budget.quantity in OF_LOSS and labelled is None:
        planning, spare = _halves(batches)
    else:
        planning, spare = tuple(batches), ()
    convs = {convolution.name: conv for convolution, conv in rewritable(convolutions)}
    trials = set_up_trials(network, list(convs), planning)
    checks = None
    if budget.quantity in OF_LOSS:
        checks = check_images_of(trials, spare, labelled, budget.quantity)

    def measure() -> Measurements:
        measured = _measurements(network, trials, known, note)
        return measured.kept_only(refused).of_style(style)

    if budget.target is None:
        measurements = measure()
    else:
        measurements = _timed(network, budget.target, farm, known, measure, note)

    by_name = {convolution.name: convolution for convolution in convolutions}
    measurements = with_sizes_between(measurements, by_name, network.maps)
    table = cost_table(measurements, budget.quantity)
    if checks is None:
        final = set_up_trials(network, list(convs), planning, FINAL_IMAGES)
        outlook, picks = _within(trials, final, convs, measurements, table, budget, note)
    else:
        outlook, picks = _within_accuracy(trials, measurements, budget, checks, note)
    costs = own_costs(measurements, convolutions, network.maps, style)
    return Plan(
        decide(measurements.layers, picks, convolutions, costs, table, measurements.loss),
        outlook=outlook,
        style=style,
    )


def _timed(
    network: Network,
    target: str,
    farm: Farm | None,
    known: Known,
    measure: Callable[[], Measurements],
    progress: Progress,
) -> Measurements:
    """What `measure` finds, with latencies. Target, board and table are looked at first: measuring
    takes minutes."""
    progress(f"looking for {target}", 0, 0)
    with open_stopwatch(target, farm) as stopwatch:
        if known.latencies is not None:
            check_table(known.latencies, target, stopwatch.machine)
        measurements = measure()
        table, keys = measure_latencies(
            network.graph_module,
            network.inputs or (),
            measurements,
            target,
            stopwatch,
            known.latencies,
            known.save_latencies,
            progress,
        )
    return with_latencies(measurements, table, keys)


def _within(
    trials: Trials,
    final: Trials,
    convs: Mapping[str, nn.Conv2d],
    measurements: Measurements,
    table: CostTable,
    budget: Budget,
    progress: Progress,
) -> tuple[Outlook, Picks]:
    """The least damage within a cost."""
    limit = limit_of(table, budget)
    layers, room = measurements.layers, limit - table.besides
    rounds_chosen = run_rounds(trials, layers, table.costs, room, progress)
    plans = competing_plans(rounds_chosen, layers, table.costs, room, convs)
    best = best_measured(final, layers, plans, progress)
    choice = best.choice
    outlook = Outlook(
        budget=str(budget),
        limit=limit,
        reached=choice.cost + table.besides,
        loss=measurements.loss,
        predicted=choice.damage,
        measured=best.measured,
        gap=choice.gap,
        rounds=len(rounds_chosen),
    )
    return outlook, choice.picks


def _within_accuracy(
    trials: Trials,
    measurements: Measurements,
    budget: Budget,
    checks: Sequence[CheckImages],
    progress: Progress,
) -> tuple[Outlook, Picks]:
    """The least cost within an accuracy drop."""
    points = budget.points
    refinement = QUICK if budget.quantity == "agreement" else None
    kept = meet_accuracy_target(trials, measurements, points, checks, progress, refinement)
    choice = kept.choice
    forms = chosen_forms(measurements.layers, choice.picks)
    outlook = Outlook(
        budget=str(budget),
        limit=points,
        reached=kept.drop,
        loss=measurements.loss,
        predicted=choice.damage,
        measured=trials.lost(trials.factors(forms, progress), progress),
        gap=choice.gap,
        rounds=0,
        verified=kept.words,
    )
    return outlook, choice.picks


def measure_candidates(
    network: Network,
    known: Known | None = None,
    progress: Progress | None = None,
) -> Measurements:
    """Every convolution's candidates with their costs and damages: what a frontier is made of."""
    trials = set_up_trials(
        network, [c.name for c, _ in rewritable(network.convolutions)], require_batches(network)
    )
    return _measurements(network, trials, known or Known(), progress or silent)


def own_costs(
    measurements: Measurements,
    convolutions: Sequence[Convolution],
    maps: Mapping[str, Maps],
    style: Style = "linear",
) -> dict[str, list[Cost]]:
    """For each convolution by itself, what every candidate of its layer costs."""
    layers = {name: layer for layer in measurements.layers for name in layer.names}
    costs: dict[str, list[Cost]] = {}
    for convolution in convolutions:
        at = maps.get(convolution.name)
        rows = []
        for candidate in layers[convolution.name].candidates:
            cost = candidate.form.cost(convolution, at, bias=True, style=style)
            alone = len(layers[convolution.name].names) == 1
            rows.append(replace(cost, seconds=candidate.cost.seconds if alone else None))
        costs[convolution.name] = rows
    return costs


def _measurements(
    network: Network,
    trials: Trials,
    known: Known,
    progress: Progress,
) -> Measurements:
    convolutions, original = network.convolutions, network.graph_module
    if known.measurements is not None:
        kernels = {c.name: c.kernel for c in convolutions}
        check_measurements(known.measurements, kernels, "the file of measurements")
        return known.measurements
    layers = trials.measured(list_layers(convolutions, network.maps), progress, scouts(network))
    inside = sum(c.params for c in convolutions)
    tensors = [*original.parameters(), *original.buffers()]
    each = next((p.element_size() for p in original.parameters()), 4)
    everything = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    measured = Measurements(
        layers,
        trials.loss.kind,
        sum(len(batch[0]) for batch in trials.judge),
        max(0, everything - inside * each),
        each,
    )
    if known.save_measurements is not None:
        known.save_measurements(measured)
    return measured


def _halves(batches: Sequence[Batch]) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """Images to plan by, and those to hold the plan against: half at most go to planning."""
    images = sum(len(batch[0]) for batch in batches)
    return take_images(batches, min(MOST_IMAGES, images // 2))
