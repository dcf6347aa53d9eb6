"""How well both networks answer: on labelled data, on unlabelled, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from sepify.graph.modes import evaluating
from sepify.graph.running import Inputs, as_inputs
from sepify.judging.fidelity import alike
from sepify.judging.heldout import image_marks
from sepify.measuring.cost import measure_cost
from sepify.measuring.data import Labelled, Scores, agree, score, score_metric
from sepify.measuring.notes import accuracy_notes, chance_note
from sepify.measuring.options import Judging
from sepify.plans.plan import Plan
from sepify.process.progress import Progress
from sepify.report.model import Variant

HELD_OUT = "held out: used for nothing else"
PERHAPS_FITTED = "which the network may have been fitted to"


@dataclass(frozen=True)
class Evidence:
    """What the networks are judged on: labelled `data`, unlabelled inputs; failing both, the
    example `inputs`, or nothing for the reason that `judging` gives."""

    inputs: Inputs
    data: Labelled | None = None
    judging: Judging = field(default_factory=Judging)

    @property
    def bare(self) -> bool:
        """Whether there is nothing but the example inputs."""
        return self.data is None and self.judging.unlabelled is None

    def judged_on(self, plan: Plan | None) -> str:
        """What else was done with the images that fidelity is measured on, as far as it is known;
        empty for labelled images, which are the user's word, and for example inputs."""
        if self.judging.unlabelled is None:
            return ""
        if plan is None or not plan.fitted:
            return ""
        apart = image_marks(as_inputs(self.judging.unlabelled)) < (plan.heldout or 0.0)
        return HELD_OUT if bool(apart.all()) else PERHAPS_FITTED

    def kind(self, plan: Plan | None) -> str:
        """What the images are that fidelity is measured on, in words."""
        if self.judging.unlabelled is None:
            return "images" if self.data is None else "labelled images"
        return "held-out images" if self.judged_on(plan) == HELD_OUT else "images"

    @property
    def readable_twice(self) -> Inputs:
        """The most telling inputs that are held in memory."""
        if self.judging.unlabelled is not None:
            return as_inputs(self.judging.unlabelled)
        if isinstance(self.data, tuple) and isinstance(self.data[0], Tensor):
            return (self.data[0],)
        if isinstance(self.data, Sized):  # not a generator, which would lose its first batch
            return (next(iter(self.data))[0],)
        return self.inputs


def judge(
    before: nn.Module, after: nn.Module, evidence: Evidence, progress: Progress | None
) -> tuple[Scores, tuple[str, ...]]:
    """Scores, with the fidelity on unlabelled inputs where there are any, and what a reader should
    beware of, the gravest first."""
    scores: Scores | None = None
    notes: list[str] = []
    if evidence.data is not None:
        scores = _score(before, after, evidence.data, evidence, progress)
        if scores.accuracy is not None:
            notes += chance_note(scores.accuracy.before, scores.classes)
            notes += accuracy_notes(scores.accuracy)
    if evidence.bare and evidence.judging.unjudged:
        return Scores(None), ()
    if scores is None or evidence.judging.unlabelled is not None:
        unlabelled = evidence.judging.unlabelled
        bare = unlabelled is None
        given = evidence.inputs if unlabelled is None else as_inputs(unlabelled)
        fidelity = agree(before, after, given, progress)
        scores = replace(scores, fidelity=fidelity) if scores else Scores(fidelity)
        if bare:
            count = f"the {len(given[0])} example input" + "s" * (len(given[0]) != 1)
            notes.append(f"Fidelity is on {count} alone: give data for a figure that counts.")
    return scores, tuple(notes)


def judge_variants(
    before: nn.Module,
    others: Mapping[str, nn.Module],
    evidence: Evidence,
    progress: Progress | None,
) -> tuple[Variant, ...]:
    """Other conversions of `before`, each judged by the figure that stands for quality."""
    variants = []
    for label, other in others.items():
        with evaluating(other):
            macs = measure_cost(other, evidence.inputs).macs
            scores, _ = judge(before, other, evidence, progress)
        value = None if scores.fidelity is None else alike(scores.fidelity)
        if scores.metric is not None:
            value = scores.metric.after
        elif scores.accuracy is not None:
            value = scores.accuracy.after
        if value is not None:
            variants.append(Variant(label, macs, value))
    return tuple(variants)


def _score(
    before: nn.Module,
    after: nn.Module,
    data: Labelled,
    evidence: Evidence,
    progress: Progress | None,
) -> Scores:
    if evidence.judging.metric is None:
        return score(before, after, data, progress, tuple(evidence.judging.names))
    name = getattr(evidence.judging.metric, "__name__", type(evidence.judging.metric).__name__)
    return score_metric(before, after, data, evidence.judging.metric, name, progress)
