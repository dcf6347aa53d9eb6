"""Planned mixtures of ranks against uniform and greedy ones at the same multiply-adds.

    OMP_NUM_THREADS=1 python benchmarks/plan.py --networks demo
    OMP_NUM_THREADS=1 python benchmarks/plan.py --networks demo,resnet20 --refine

For each budget, a share of the convolutions' multiply-adds, three plans: `planned` (sepify.plan),
`uniform` (the highest rank that fits everywhere, then one more, layer by layer from the last, as
far as the budget goes; the stem is kept), and `greedy` (the literature's way: the threshold on the
energy that the SVD keeps, the same for every layer, that just meets the budget). All are solved on
the same 1,024 unlabelled images and scored on the whole test set.

Then random plans: how well the predicted loss ranks whole plans (Spearman) against the loss
measured on them; and the time that HiGHS takes for 100 convolutions of 9 ranks and 2 orders.
Rows go to benchmarks/out/planning.json.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from datasets import OUT, SEED
from scipy.stats import spearmanr
from subjects import SUBJECTS, Subject
from torch import fx

import sepify
from sepify.calibration.batches import calibration_batches
from sepify.capture import capture
from sepify.errors import FileError, PlanError
from sepify.factorize.svd import svd_error
from sepify.measuring.accuracy import top1
from sepify.planning import Plan, survey
from sepify.planning.knapsack import choose
from sepify.planning.measurements import Measurements
from sepify.planning.plan import Cost, Decision
from sepify.planning.planner import Known, measure_candidates
from sepify.planning.rounds import chosen_forms, damage_table
from sepify.planning.survey import separable
from sepify.planning.workbench import set_up
from sepify.storage import read_json, write_json

IMAGES = 1_024
BUDGETS = (0.5, 0.35, 0.3, 0.25, 0.2, 0.15)


@dataclass(frozen=True)
class Row:
    """One plan: share of the convolutions' MACs, and top-1 in points, before and after."""

    subject: str
    method: str
    budget: float
    macs: float
    before: float
    top1: float
    refined: bool
    seconds: float  # CPU seconds that planning took


def main() -> None:
    """Measure and print."""
    options = _options()
    rows: list[Row] = []
    notes: dict[str, float] = {"solver_seconds": _solver_seconds()}
    print(f"HiGHS, 100 convolutions x 9 ranks x 2 orders: {notes['solver_seconds']:.2f} s")
    for key in options.networks.split(","):
        try:
            subject = SUBJECTS[key]()
        except FileError as error:
            print(f"{key} skipped: {error}")
            continue
        _run(key, subject, options, rows, notes)
        _save(rows, notes)


def _save(rows: list[Row], notes: dict[str, float]) -> None:
    """Beside what other runs have measured."""
    path = OUT / "planning.json"
    before = read_json(path) if path.is_file() else {"rows": [], "notes": {}}
    every = [*before["rows"], *(asdict(row) for row in rows)]
    by_key = {(r["subject"], r["method"], r["budget"], r["refined"]): r for r in every}
    write_json(path, {"rows": list(by_key.values()), "notes": {**before["notes"], **notes}})


def _run(
    key: str,
    subject: Subject,
    options: argparse.Namespace,
    rows: list[Row],
    notes: dict[str, float],
) -> None:
    x, images = subject.images.test[:1], subject.images.calibration[:IMAGES]
    graph = capture(subject.network, (x,)).graph_module
    batches = calibration_batches(images)
    begun = time.process_time()
    measured = measure_candidates(graph, (x,), batches)
    seconds = time.process_time() - begun
    notes[f"{key}_measuring_seconds"] = seconds
    before = 100 * top1(subject.network, subject.images.test, subject.images.labels)
    print(f"\n{subject.title}: {before:.2f} %; measuring took {seconds:.1f} CPU seconds")
    known = Known(measured)
    makers: dict[str, Callable[[float], Plan]] = {
        "planned": lambda share: sepify.plan(
            graph, x, calibration=images, budget=sepify.Budget(macs=share), known=known
        ),
        "uniform": lambda share: _uniform(measured, share, subject.stem),
        "greedy": lambda share: _greedy(measured, graph, share),
    }
    for share in options.budgets:
        for method in options.methods:
            make = makers[method]
            begun = time.process_time()
            try:
                plan = make(share)
            except PlanError as error:
                print(f"{share:5.2f} {method:8} {error}")
                continue
            seconds = time.process_time() - begun
            small = sepify.convert(
                graph,
                plan=replace(plan, outlook=None),
                example_inputs=x,
                calibration=images,
                refine=options.refine,
            )
            score = 100 * top1(small, subject.images.test, subject.images.labels)
            macs = sum(d.after.macs for d in plan) / sum(d.before.macs for d in plan)
            rows.append(Row(key, method, share, macs, before, score, options.refine, seconds))
            print(
                f"{share:5.2f} {method:8} MACs {macs:.3f}  top-1 {score:.2f} "
                f"({score - before:+.2f})  planned in {seconds:.1f} s",
                flush=True,
            )
    if not options.random_plans:
        return
    notes[f"{key}_spearman"] = _rank_correlation(measured, graph, batches, options.random_plans)
    print(f"predicted against measured loss of random plans: {notes[f'{key}_spearman']:.3f}")


def _plan(measured: Measurements, picks: dict[str, int]) -> Plan:
    decisions = []
    for layer in measured.layers:
        taken = layer.candidates[picks.get(layer.names[0], 0)]
        kept = layer.candidates[0].cost
        for name in layer.names:
            action = "keep" if taken.rank is None else "separate"
            cost = Cost(taken.cost.macs, taken.cost.params)
            decisions.append(
                Decision(name, action, "", layer.kernel, kept, cost, taken.order, taken.rank)
            )
    return Plan(tuple(decisions))


def _macs(plan: Plan) -> float:
    return sum(d.after.macs or 0 for d in plan) / sum(d.before.macs or 0 for d in plan)


def _ranks(measured: Measurements, name: str) -> dict[int, int]:
    """Index of each dw-pw candidate by rank."""
    (layer,) = (layer for layer in measured.layers if layer.names[0] == name)
    return {c.rank: k for k, c in enumerate(layer.candidates) if c.order == "dw-pw" and c.rank}


def _uniform(measured: Measurements, share: float, stem: str) -> Plan:
    names = [layer.names[0] for layer in measured.layers if len(layer.candidates) > 1]
    names = [name for name in names if name != stem]
    best: Plan | None = None
    for rank in range(1, 10):
        for more in range(len(names)):
            wanted = {n: rank + (i < more) for i, n in enumerate(reversed(names))}
            picks = {n: _ranks(measured, n).get(r, 0) for n, r in wanted.items()}
            plan = _plan(measured, picks)
            if _macs(plan) > share:
                break
            best = plan
    if best is None:
        raise PlanError("rank 1 everywhere costs more")
    return best


def _greedy(measured: Measurements, graph: fx.GraphModule, share: float) -> Plan:
    convs = {c.name: conv for c, conv in separable(survey(graph))}
    lost = {
        name: {rank: svd_error(conv.weight, "dw-pw", rank) for rank in _ranks(measured, name)}
        for name, conv in convs.items()
    }

    def at(threshold: float) -> Plan:
        picks = {}
        for name, by_rank in lost.items():
            enough = [rank for rank, error in by_rank.items() if error <= threshold]
            picks[name] = _ranks(measured, name)[min(enough)] if enough else 0
        return _plan(measured, picks)

    for threshold in sorted({error for by_rank in lost.values() for error in by_rank.values()}):
        plan = at(threshold)
        if _macs(plan) <= share:
            return plan
    raise PlanError("no threshold meets the budget")


def _rank_correlation(
    measured: Measurements, graph: fx.GraphModule, batches: tuple, plans: int
) -> float:
    """Spearman's rho over random plans: each layer's rank is around one drawn for the plan."""
    bench = set_up(graph, [c.name for c, _ in separable(survey(graph))], batches)
    draw = random.Random(SEED)
    damages = damage_table(measured.layers)
    predicted, found = [], []
    for _ in range(plans):
        centre = draw.uniform(1, 5)
        picks = []
        for layer in measured.layers:
            ranks = {c.rank: k for k, c in enumerate(layer.candidates) if c.order == "dw-pw"}
            wanted = max(1, round(draw.gauss(centre, 1)))
            picks.append(ranks.get(wanted, 0))
        predicted.append(sum(row[k] for row, k in zip(damages, picks, strict=True)))
        found.append(bench.around(chosen_forms(measured.layers, picks), {}, _silent)[0])
    return float(spearmanr(predicted, found).statistic)


def _solver_seconds() -> float:
    """For 100 layers whose damage falls with the rank, as real ones do."""
    generator = np.random.default_rng(SEED)
    damages, costs = [], []
    for _ in range(100):
        size, worst = generator.uniform(1, 10), generator.lognormal()
        rates = generator.uniform(0.4, 0.9, 2)
        damages.append([0.0, *(worst * rate**r for rate in rates for r in range(1, 10))])
        costs.append([size, *(size * r * f for f in (0.115, 0.12) for r in range(1, 10))])
    limit = 0.35 * sum(row[0] for row in costs)
    begun = time.perf_counter()
    choose(damages, costs, limit)
    return time.perf_counter() - begun


def _silent(_what: str, _done: int, _total: int) -> None:
    """Nothing is shown while a plan is tried."""


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", default="demo,resnet20", help=", ".join(SUBJECTS))
    parser.add_argument("--budgets", type=lambda t: [float(p) for p in t.split(",")])
    parser.add_argument("--methods", default="planned,uniform,greedy")
    parser.add_argument("--refine", action="store_true", help="block by block after solving")
    parser.add_argument("--random-plans", type=int, default=24)
    parser.set_defaults(budgets=list(BUDGETS))
    torch.manual_seed(SEED)
    options = parser.parse_args()
    options.methods = options.methods.split(",")
    return options


if __name__ == "__main__":
    main()
