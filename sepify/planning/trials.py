"""The network and the images that candidates and plans are tried on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from sepify.calibration.candidates import refine_solved, solve_alone, solve_around
from sepify.calibration.output_loss import OutputLoss, Outputs, choose_loss
from sepify.calibration.refine import Refinement
from sepify.calibration.sensitivity import (
    Replay,
    estimate_damage,
    measure_damage,
    original_outputs,
)
from sepify.capture.network import Network
from sepify.errors import InputError
from sepify.factorize.factors import Factors
from sepify.graph.batches import Batch, image_count
from sepify.planning.candidates import Layer
from sepify.plans.form import Form
from sepify.process.progress import Progress

MOST_IMAGES = 512  # that planning looks at; more change no choice and cost time
JUDGING = 3  # one image in three judges, the others are solved on
FEWEST_IMAGES = 32
# Estimates of the second order are good where little is lost. Above this share of the loss of the
# worst candidate they are measured instead; so are the candidates that a plan would choose between.
MEASURE_ABOVE = 0.05


@dataclass(frozen=True)
class Trials:
    """`network` computes what the original does, ready to be solved; factors are fitted to `fit`
    and judged on `judge`, for which the original answers `wanted`."""

    network: fx.GraphModule
    fit: tuple[Batch, ...]
    judge: tuple[Batch, ...]
    wanted: tuple[Outputs, ...]
    loss: OutputLoss

    def measured(
        self,
        layers: Sequence[Layer],
        progress: Progress,
        scouts: Mapping[str, Sequence[Form]] | None = None,
    ) -> tuple[Layer, ...]:
        """`layers` with the damage of every candidate: estimated, and measured where the estimate
        is large; without those of families that `scouts` show to be outclassed."""
        forms = {layer.names[0]: _forms(layer) for layer in layers if len(layer.candidates) > 1}
        found_forms = solve_alone(self.network, forms, self.fit, progress, scouts)
        layers = [_only(layer, found_forms.get(layer.names[0])) for layer in layers]
        solved = {name: list(factors.values()) for name, factors in found_forms.items()}
        estimates = estimate_damage(self.network, solved, self.judge, self.loss, progress)
        worst = max((max(values) for values in estimates.values()), default=0.0)
        large = {
            name: [k for k, value in enumerate(values) if value > MEASURE_ABOVE * worst]
            for name, values in estimates.items()
        }
        large_ones = {name: [solved[name][k] for k in large[name]] for name in large if large[name]}
        _, found = measure_damage(
            self.network, {}, large_ones, self.judge, self.wanted, self.loss, progress
        )
        damages = {name: [(value, False) for value in values] for name, values in estimates.items()}
        for name, values in found.items():
            for k, value in zip(large[name], values, strict=True):
                damages[name][k] = (value, True)
        return tuple(_filled(layer, damages.get(layer.names[0], [])) for layer in layers)

    def around(
        self,
        chosen: Mapping[str, Form],
        others: Mapping[str, Sequence[Form]],
        progress: Progress,
    ) -> tuple[float, dict[str, list[float]]]:
        """The loss of a whole plan, every layer solved behind those before it; and that with one
        layer changed to each of `others`."""
        factors, alternatives = solve_around(self.network, chosen, others, self.fit, progress)
        return measure_damage(
            self.network, factors, alternatives, self.judge, self.wanted, self.loss, progress
        )

    def factors(self, chosen: Mapping[str, Form], progress: Progress) -> dict[str, Factors]:
        """Factors for a whole plan, every layer solved behind those before it."""
        return solve_around(self.network, chosen, {}, self.fit, progress)[0]

    def refined(
        self, factors: Mapping[str, Factors], refinement: Refinement, progress: Progress
    ) -> dict[str, Factors]:
        """Those of a whole plan, refined block by block."""
        return refine_solved(self.network, factors, self.fit, refinement, progress)

    def lost(self, factors: Mapping[str, Factors], progress: Progress) -> float:
        """The loss of a whole plan, given its factors."""
        return measure_damage(
            self.network, factors, {}, self.judge, self.wanted, self.loss, progress
        )[0]

    def answers(self, factors: Mapping[str, Factors], batches: Sequence[Batch]) -> list[Outputs]:
        """What the network puts out with `factors` in place of convolutions."""
        replay = Replay(self.network)
        return [replay.outputs(replay.start(batch), 0, factors) for batch in batches]


def set_up_trials(
    original: Network,
    separable: Collection[str],
    batches: Sequence[Batch],
    most: int = MOST_IMAGES,
) -> Trials:
    """Trials of `original`, whose convolutions `separable` may be rewritten, with the first
    `most` images or so.

    Raises InputError if there are fewer than 32 images, or the network's outputs cannot be judged.
    """
    images = image_count(batches)
    if images < FEWEST_IMAGES:
        raise InputError(
            f"{images} calibration images are too few to plan by: give at least {FEWEST_IMAGES}, "
            "better a few hundred"
        )
    network = original.to_solve(separable)
    fit, judge = split_images(take_images(batches, most)[0], JUDGING)
    wanted = original_outputs(network, judge)
    return Trials(network, fit, judge, tuple(wanted), choose_loss(wanted))


def take_images(batches: Sequence[Batch], most: int) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """The first `most` images or so, in whole batches, and the others."""
    taken = 0
    for number, batch in enumerate(batches):
        if taken >= most:
            return tuple(batches[:number]), tuple(batches[number:])
        taken += len(batch[0])
    return tuple(batches), ()


def split_images(
    batches: Sequence[Batch], one_in: int
) -> tuple[tuple[Batch, ...], tuple[Batch, ...]]:
    """All images but one in `one_in`, and those; of batches whose inputs are not one row an image,
    one batch in `one_in`."""
    most: list[Batch] = []
    few: list[Batch] = []
    seen = 0
    for number, batch in enumerate(batches):
        images = len(batch[0])
        if any(tensor.dim() == 0 or len(tensor) != images for tensor in batch):
            (few if number % one_in == one_in - 1 else most).append(batch)
            continue
        chosen = torch.arange(seen, seen + images) % one_in == one_in - 1
        seen += images
        for part, rows in ((most, ~chosen), (few, chosen)):
            if rows.any():
                part.append(tuple(tensor[rows.to(tensor.device)] for tensor in batch))
    return tuple(most), tuple(few)


def _forms(layer: Layer) -> list[Form]:
    return [candidate.form for candidate in layer.candidates[1:]]


def _only(layer: Layer, solved: Mapping[Form, Factors] | None) -> Layer:
    """`layer` with the candidates that were solved."""
    if solved is None:
        return layer
    kept, *others = layer.candidates
    return replace(layer, candidates=(kept, *(c for c in others if c.form in solved)))


def _filled(layer: Layer, damages: Sequence[tuple[float, bool]]) -> Layer:
    kept, *others = layer.candidates
    each = len(layer.names)  # tied convolutions are measured at the first, and alike
    filled = [
        replace(candidate, damage=max(0.0, damage) * each, measured=measured)
        for candidate, (damage, measured) in zip(others, damages, strict=True)
    ]
    return replace(layer, candidates=(kept, *filled))
