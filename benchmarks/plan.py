"""Planned mixtures of ranks against uniform and greedy ones at the same multiply-adds.

    OMP_NUM_THREADS=1 python benchmarks/plan.py --networks demo
    OMP_NUM_THREADS=1 python benchmarks/plan.py --networks demo,resnet20 --refine --mirror

For each budget, a share of the convolutions' multiply-adds, three plans: `planned` (sepify.plan),
`uniform` (the highest rank that fits everywhere, then one more, layer by layer from the last, as
far as the budget goes; the stem is kept), and `greedy` (the literature's way: the threshold on the
energy that the SVD keeps, the same for every layer, that just meets the budget). All are solved on
the same 1,024 unlabelled images, with `--mirror` on their mirror images too, and scored on the
whole test set. `--draws 5` does so for five draws of the 1,024 images from the training set, the
first being the usual one, and prints the means: in one draw a tenth of a point is chance.

Also: the CPU seconds of a calibration at rank 1, of which planning is to take two at most; random
plans, and how well the predicted loss ranks them (Spearman) against the loss measured on them;
accuracy_drop=0.5 planned by 2,000 labelled test images and held against the other 8,000; and the
time that HiGHS takes for 100 convolutions of 9 ranks and 2 orders. All that is measured goes to
benchmarks/out/planning.json at once, and a later run goes on from there.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from image_sets import OUT, SEED
from scipy.stats import spearmanr
from subjects import SUBJECTS, Subject
from torch import Tensor, fx, nn
from torch.nn import functional as F

import sepify
from sepify.capture import capture
from sepify.capture.network import make_network, require_batches
from sepify.errors import FileError, PlanError
from sepify.graph.convolutions import rewritable, survey
from sepify.judging.statistics import top1
from sepify.planning.budgeted import Known, measure_candidates
from sepify.planning.candidates import Measurements, load_measurements, save_measurements
from sepify.planning.knapsack import choose, cost_table
from sepify.planning.reference_plans import Picks, by_rank, energy_picks, uniform_picks
from sepify.planning.search import chosen_forms, damage_table
from sepify.planning.trials import set_up_trials
from sepify.plans.plan import Decision, Plan
from sepify.storage import read_json, write_json

IMAGES = 1_024
BUDGETS = (0.5, 0.35, 0.3, 0.25, 0.2, 0.15)
PROMISE = 0.5  # points
PROMISE_LABELS = 2_000
BATCH = 500
RESULTS_FILE = OUT / "planning.json"

Notes = dict[str, float]
Key = tuple[str, str, float, bool, bool]


@dataclass(frozen=True)
class Row:
    """One plan: share of the convolutions' MACs, top-1 in points, before and after, the
    Kullback-Leibler divergence of the outputs from the original's on the test images, in nats, and
    how many of these images are given another class than by the original."""

    subject: str
    method: str
    budget: float
    macs: float
    before: float
    top1: float
    refined: bool
    seconds: float  # CPU seconds that planning took, measuring the candidates not counted
    mirrored: bool = False  # converted on the mirror images as well
    divergence: float | None = None  # in rows of before it was measured
    changed: int | None = None  # as well

    @property
    def key(self) -> Key:
        """What tells rows apart."""
        return self.subject, self.method, self.budget, self.refined, self.mirrored


class Results:
    """Rows and single figures on disk, written whole after each."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        found = read_json(path) if path.is_file() and not fresh else {"rows": [], "notes": {}}
        self.rows = {row.key: row for row in (Row(**item) for item in found["rows"])}
        self.notes: Notes = found["notes"]

    def row(self, key: Key, make: Callable[[], Row]) -> Row:
        """The row, measured unless it is there."""
        if key not in self.rows:
            self.rows[key] = make()
            self._write()
        return self.rows[key]

    def note(self, name: str, make: Callable[[], float]) -> float:
        """The figure, measured unless it is there."""
        if name not in self.notes:
            self.notes[name] = make()
            self._write()
        return self.notes[name]

    def _write(self) -> None:
        rows = [asdict(row) for row in self.rows.values()]
        write_json(self.path, {"rows": rows, "notes": self.notes})


def main() -> None:
    """Measure what was asked for and is not yet known; print all of it."""
    options = _options()
    results = Results(RESULTS_FILE, options.fresh)
    seconds = results.note("solver_seconds", _solver_seconds)
    print(f"HiGHS, 100 convolutions x 9 ranks x 2 orders: {seconds:.2f} s")
    for key in options.networks.split(","):
        try:
            subject = SUBJECTS[key]()
        except FileError as error:
            print(f"{key} skipped: {error}")
            continue
        for draw in range(options.draws):
            _run(*_drawn(key, subject, draw), options, results)
        if options.draws > 1:
            _print_means(key, subject, options, results)
        _run_besides(key, subject, options, results)


def _drawn(key: str, subject: Subject, draw: int) -> tuple[str, Subject]:
    """The subject with other calibration images; the usual ones for draw 0."""
    if draw == 0:
        return _drawn_key(key, draw), subject
    assert subject.training is not None, f"{key} has no training images to draw from"
    images = subject.training()
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(draw))[:IMAGES]
    calibrating = replace(subject.images, calibration=images[drawn])
    title = f"{subject.title}, draw {draw}"
    return _drawn_key(key, draw), replace(subject, title=title, images=calibrating)


def _drawn_key(key: str, draw: int) -> str:
    return f"{key}-draw-{draw}" if draw else key


def _print_means(key: str, subject: Subject, options: argparse.Namespace, results: Results) -> None:
    print(f"\n{subject.title}, {options.draws} draws: points lost, mean (least to most), and KL")
    for share in options.budgets:
        for method in options.methods:
            keys = [_drawn_key(key, draw) for draw in range(options.draws)]
            wanted = [(k, method, share, options.refine, options.mirror) for k in keys]
            rows = [results.rows[w] for w in wanted if w in results.rows]
            if not rows:
                continue
            lost = [row.before - row.top1 for row in rows]
            apart = float(np.mean([row.divergence or 0 for row in rows]))
            print(
                f"{share:5.2f} {method:8} {np.mean(lost):.2f} ({min(lost):.2f} to {max(lost):.2f})"
                f"  KL {apart:.4f}"
            )


def _run(key: str, subject: Subject, options: argparse.Namespace, results: Results) -> None:
    x, images = subject.images.test[:1], subject.images.calibration[:IMAGES]
    graph = capture(subject.network, (x,)).graph_module
    measured = _measurements(key, graph, x, images, options.fresh, results.notes)
    before = 100 * top1(subject.network, subject.images.test, subject.images.labels)
    print(f"\n{subject.title}: {before:.2f} %")
    for share in options.budgets:
        for method in options.methods:
            make = _makers(graph, x, images, measured)[method]

            wanted = (key, method, share, options.refine, options.mirror)

            def measure(make=make, wanted=wanted) -> Row:
                return _measure(wanted, subject, graph, make)

            try:
                row = results.row(wanted, measure)
            except PlanError as error:
                print(f"{share:5.2f} {method:8} {error}")
                continue
            print(
                f"{share:5.2f} {method:8} MACs {row.macs:.3f}  top-1 {row.top1:.2f} "
                f"({row.top1 - before:+.2f})  KL {row.divergence or 0:.4f}  "
                f"changed {'?' if row.changed is None else row.changed}  "
                f"planned in {row.seconds:.1f} s",
                flush=True,
            )


def _run_besides(key: str, subject: Subject, options: argparse.Namespace, results: Results) -> None:
    """What planning costs, how well it predicts, and what a promise in points comes to."""
    x, images = subject.images.test[:1], subject.images.calibration[:IMAGES]
    graph = capture(subject.network, (x,)).graph_module
    measured = _measurements(key, graph, x, images, False, results.notes)

    def calibrate(refine: bool) -> float:
        begun = time.process_time()
        sepify.convert(
            graph,
            rank=1,
            keep=(subject.stem,),
            example_inputs=x,
            calibration=images,
            solver=sepify.Solver(refine=refine, holdout=0),
        )
        return time.process_time() - begun

    for refine in (False, True):
        name = "refined" if refine else "unrefined"
        seconds = results.note(f"{key}_calibration_{name}", lambda r=refine: calibrate(r))
        print(f"one calibration at rank 1, {name}: {seconds:.1f} CPU seconds")
    print(f"measuring the candidates: {results.notes[f'{key}_measuring_seconds']:.1f} CPU seconds")
    if options.random_plans:
        found = results.note(
            f"{key}_spearman",
            lambda: _rank_correlation(measured, graph, images, options.random_plans),
        )
        print(f"predicted against measured loss of random plans: {found:.3f}")
    if options.promise:
        lost = results.note(
            f"{key}_promise_lost", lambda: _promise(subject, graph, measured, results.notes, key)
        )
        share = results.notes[f"{key}_promise_macs"]
        print(f"accuracy_drop={PROMISE}: {lost:+.2f} points lost at {share:.3f} of the MACs")


def _makers(
    graph: fx.GraphModule, x: Tensor, images: Tensor, measured: Measurements
) -> dict[str, Callable[[float], Plan]]:
    table = cost_table(measured, "macs")
    convs = {c.name: conv for c, conv in rewritable(survey(graph))}

    def limited(find: Callable[[float], Picks | None], share: float) -> Plan:
        picks = find(share * table.original)
        if picks is None:
            raise PlanError("no plan of this kind is within the budget")
        return _plan(measured, picks)

    layers, costs = measured.layers, table.costs

    def planned(share: float) -> Plan:
        budget, known = sepify.Budget(macs=share), Known(measured)
        return sepify.plan(graph, x, calibration=images, budget=budget, known=known, holdout=0)

    return {
        "planned": planned,
        "uniform": lambda share: limited(lambda room: uniform_picks(layers, costs, room), share),
        "greedy": lambda share: limited(
            lambda room: energy_picks(layers, costs, room, convs), share
        ),
    }


def _measure(
    wanted: Key, subject: Subject, graph: fx.GraphModule, make: Callable[[float], Plan]
) -> Row:
    key, method, share, refine, mirror = wanted
    begun = time.process_time()
    plan = make(share)
    seconds = time.process_time() - begun
    images, labels = subject.images.test, subject.images.labels
    calibration = subject.images.calibration[:IMAGES]
    if mirror:
        calibration = torch.cat([calibration, calibration.flip(3)])
    small = sepify.convert(
        graph,
        plan=replace(plan, outlook=None),
        example_inputs=images[:1],
        calibration=calibration,
        solver=sepify.Solver(holdout=0, refine=refine),
    )
    macs = sum(d.after.macs or 0 for d in plan) / sum(d.before.macs or 0 for d in plan)
    before, score = (100 * top1(network, images, labels) for network in (subject.network, small))
    apart, changed = _difference(subject.network, small, images)
    return Row(key, method, share, macs, before, score, refine, seconds, mirror, apart, changed)


@torch.no_grad()
def _difference(original: nn.Module, small: nn.Module, images: Tensor) -> tuple[float, int]:
    """Divergence and changed classes, where top-1 cannot tell two plans apart: an image that was
    wrong and becomes right makes up there for one that was right."""
    total, changed = 0.0, 0
    for batch in images.split(BATCH):
        wanted, given = (F.log_softmax(network(batch), 1) for network in (original, small))
        total += float(F.kl_div(given, wanted, reduction="sum", log_target=True))
        changed += int((wanted.argmax(1) != given.argmax(1)).sum())
    return total / len(images), changed


def _measurements(
    key: str, graph: fx.GraphModule, x: Tensor, images: Tensor, fresh: bool, notes: Notes
) -> Measurements:
    path = OUT / f"planning-{key}.json"
    if path.is_file() and not fresh and f"{key}_measuring_seconds" in notes:
        return load_measurements(path)
    begun = time.process_time()
    measured = measure_candidates(make_network(graph, x, images))
    notes[f"{key}_measuring_seconds"] = time.process_time() - begun
    save_measurements(measured, path)
    return measured


def _plan(measured: Measurements, picks: Picks) -> Plan:
    decisions = []
    for layer, pick in zip(measured.layers, picks, strict=True):
        taken, kept = layer.candidates[pick], layer.candidates[0].cost
        decisions += [
            Decision(name, taken.form, "", layer.kernel, kept, taken.cost) for name in layer.names
        ]
    return Plan(tuple(decisions))


def _rank_correlation(
    measured: Measurements, graph: fx.GraphModule, images: Tensor, plans: int
) -> float:
    """Spearman's rho over random plans: each layer's rank is around one drawn for the plan."""
    network = make_network(graph, None, images)
    names = [c.name for c, _ in rewritable(network.convolutions)]
    trials = set_up_trials(network, names, require_batches(network))
    draw = random.Random(SEED)
    damages = damage_table(measured.layers)
    predicted, found = [], []
    for _ in range(plans):
        centre = draw.uniform(1, 5)
        picks = []
        for layer in measured.layers:
            wanted = max(1, round(draw.gauss(centre, 1)))
            picks.append(by_rank(layer).get(wanted, 0))
        predicted.append(sum(row[k] for row, k in zip(damages, picks, strict=True)))
        found.append(trials.around(chosen_forms(measured.layers, picks), {}, _silent)[0])
    return float(spearmanr(predicted, found).statistic)


def _promise(
    subject: Subject, graph: fx.GraphModule, measured: Measurements, notes: Notes, key: str
) -> float:
    """Points lost, as `convert` makes it, on the test images that the planner has not seen."""
    images, labels = subject.images.test, subject.images.labels
    assert labels is not None
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    known, unseen = drawn[:PROMISE_LABELS], drawn[PROMISE_LABELS:]
    plan = sepify.plan(
        graph,
        images[:1],
        calibration=subject.images.calibration[:IMAGES],
        holdout=0,
        budget=sepify.Budget(accuracy_drop=PROMISE, labelled=(images[known], labels[known])),
        known=Known(measured),
    )
    notes[f"{key}_promise_macs"] = sum(d.after.macs or 0 for d in plan) / sum(
        d.before.macs or 0 for d in plan
    )
    small = sepify.convert(
        graph,
        plan=plan,
        calibration=subject.images.calibration[:IMAGES],
        solver=sepify.Solver(holdout=0),
    )
    before, after = (top1(net, images[unseen], labels[unseen]) for net in (graph, small))
    return 100 * (before - after)


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
    parser.add_argument("--mirror", action="store_true", help="convert on mirror images as well")
    parser.add_argument("--draws", type=int, default=1, help="of calibration images; default: 1")
    parser.add_argument("--random-plans", type=int, default=24)
    parser.add_argument("--promise", action="store_true", help="accuracy_drop as well")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs measured")
    parser.set_defaults(budgets=list(BUDGETS))
    torch.manual_seed(SEED)
    options = parser.parse_args()
    options.methods = options.methods.split(",")
    return options


if __name__ == "__main__":
    main()
