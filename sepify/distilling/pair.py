"""Teacher and student as one module whose forward returns the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from sepify.capture import Captured, Model, capture
from sepify.distilling.losses import Losses, TaskLoss, are_class_scores, soft_targets
from sepify.distilling.taps import Pair, comparable_layers, tapped
from sepify.errors import CaptureError, InputError, UsageError
from sepify.graph.copying import copy_module
from sepify.graph.modes import evaluating
from sepify.graph.running import answer
from sepify.passes.spare_strided_depthwise import SpareStridedDepthwise
from sepify.plans.resolution import resize_images

FLOOR = 1e-12  # of a variance: a layer that always puts out the same
IGNORED = -100  # a label that torch's cross_entropy leaves out


class DistillationPair(nn.Module):
    """A converted network and its original; `loss = pair(images)` or `pair(images, labels=y)`.

    An ordinary module: train `pair.parameters()` in any loop, under Lightning or DDP. The teacher
    is a frozen copy that stays in evaluation mode. Only the student learns, in place; take it out
    with `pair.student`. Call `pair.set_progress(share)` as the training goes on, so that the
    weight of the layer-wise part falls. A student whose plan has a resolution is shown the images
    at that size, its teacher as they come.
    """

    scales: Tensor
    done: float  # the share of the training that is over, 0 to 1

    def __init__(
        self,
        student: fx.GraphModule,
        teacher: Model,
        example_inputs: Tensor | Sequence[Tensor],
        *,
        losses: Losses | None = None,
        loss: TaskLoss | None = None,
    ) -> None:
        """Put `teacher` beside `student`.

        student         what `sepify.convert` returned; trained in place
        teacher         the original, in any form that `convert` takes; never changed
        example_inputs  one batch, better some dozens of images: both networks are run on it, and
                        the layers' variances are taken from it
        losses          the parts of the loss, their weights and temperature
        loss            your own task loss instead of soft targets, for networks that do not return
                        one row of class scores an image; its weight is `losses.soft`

        Raises InputError where the two return different structures or shapes, UsageError where the
        outputs need a loss of their own, CaptureError where the teacher's layers are asked for and
        it cannot be captured.
        """
        super().__init__()
        self.losses = losses or Losses()
        self.loss = loss
        self.done = 0.0
        given = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
        inputs = tuple(given)
        original = _captured(teacher, inputs, needed=self.losses.layers > 0)
        plan = getattr(student.meta.get("sepify"), "plan", None)
        self.resolution: tuple[int, int] | None = getattr(plan, "resolution", None)
        self.classes = self._check(student, original, inputs)  # None: no class scores
        layers: dict[str, list[Pair]] = {}
        if self.losses.layers > 0 and isinstance(original, fx.GraphModule):
            layers = comparable_layers(student, original, self._shown(inputs), inputs)
        pairs = [pair for calls in layers.values() for pair in calls]
        self.matched = tuple(layers)
        self._student = tapped(student, [pair[0] for pair in pairs])
        SpareStridedDepthwise().apply(self._student)
        self._teacher = original
        if pairs and isinstance(original, fx.GraphModule):
            self._teacher = tapped(original, [pair[1] for pair in pairs])
        self._teacher.requires_grad_(False).eval()
        self._plain = (student,)  # in a tuple: its modules are registered already, in _student
        self.register_buffer("scales", self._variances(inputs))

    @property
    def student(self) -> fx.GraphModule:
        """The network that learns: the very object that was given."""
        return self._plain[0]

    def set_progress(self, done: float) -> None:
        """Say that the share `done`, 0 to 1, of the training is over."""
        self.done = done

    def train(self, mode: bool = True) -> DistillationPair:
        """Training or evaluation mode for the student; the teacher is always in evaluation."""
        super().train(mode)
        self._teacher.eval()
        return self

    def forward(self, *inputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of one batch, a scalar. `inputs` as the networks take them; `labels` (B,) class
        numbers, or whatever your own loss takes. Raises InputError for a class that is not one."""
        parts = self.parts(*inputs, labels=labels)
        return torch.stack(list(parts.values())).sum()

    def parts(self, *inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The parts of the loss by name, each with its weight already in it."""
        losses = self.losses
        answer, given = self._student(*self._shown(inputs))
        with torch.no_grad():
            target, wanted = self._taught(*inputs)
        parts: dict[str, Tensor] = {}
        if self.loss is not None:
            parts["task"] = losses.soft * self.loss(answer, target, labels)
        else:
            if losses.soft:
                parts["soft"] = losses.soft * soft_targets(answer, target, losses.temperature)
            if losses.labels and labels is not None:
                self._require_classes(labels)
                parts["labels"] = losses.labels * F.cross_entropy(answer.float(), labels)
        weight = losses.layers_at(self.done)
        if weight and given:
            parts["layers"] = weight * self._layer_errors(given, wanted).mean()
        if not parts:
            raise UsageError(
                "no part of the loss is left: give labels, or a weight to soft targets"
            )
        return parts

    @torch.no_grad()
    def distance(
        self, *inputs: Tensor, student: nn.Module | None = None
    ) -> tuple[Tensor, Any, Any]:
        """How far the student's outputs are from the teacher's on one batch, without layers or
        labels: (the task's loss or soft targets, the student's outputs, the teacher's).

        `student` stands in for this one's, an average of its weights say.
        """
        given = (student or self._student)(*self._shown(inputs))[0]
        wanted = self._taught(*inputs)[0]
        if self.loss is not None:
            return self.loss(given, wanted, None), given, wanted
        return soft_targets(given, wanted, self.losses.temperature), given, wanted

    @property
    def learner(self) -> fx.GraphModule:
        """The student's graph as it is run here: it returns (outputs, values of the matched
        layers), and its parameters are the student's own."""
        return self._student

    @property
    def teacher(self) -> nn.Module:
        """The frozen original; where layers are matched, it returns their values too."""
        return self._teacher

    def _require_classes(self, labels: Tensor) -> None:
        """On a GPU a label too high ends the process's use of it, so it is looked at before.
        Raises InputError."""
        if labels.is_floating_point() or labels.numel() == 0 or self.classes is None:
            return  # the shares of the classes, as cross_entropy takes them too
        known = labels[labels != IGNORED]
        low, high = (int(found) for found in known.aminmax()) if known.numel() else (0, 0)
        if low < 0 or high >= self.classes:
            raise InputError(
                f"labels run from {low} to {high}, and the networks tell {self.classes} classes, "
                f"0 to {self.classes - 1}"
            )

    def _shown(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the student sees: smaller images where its plan has a resolution."""
        return inputs if self.resolution is None else resize_images(inputs, self.resolution)

    def _taught(self, *inputs: Tensor) -> tuple[Any, tuple[Tensor, ...]]:
        if not self.matched:
            return self._teacher(*inputs), ()
        answer, values = self._teacher(*inputs)
        return answer, values

    def _layer_errors(self, given: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        errors = [
            F.mse_loss(new.float(), old.float()) for new, old in zip(given, wanted, strict=True)
        ]
        return torch.stack(errors) / self.scales

    @torch.no_grad()
    def _variances(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The variance of each matched layer's output in the teacher around its channel's mean.

        It is fixed, so that the loss of a batch is the mean of the losses of its parts.
        """
        values = self._taught(*inputs)[1]
        found = [value.float().transpose(0, 1).flatten(1).var(1).mean() for value in values]
        return torch.stack(found).clamp_min(FLOOR) if found else torch.zeros(0)

    @torch.no_grad()
    def _check(
        self, student: nn.Module, teacher: nn.Module, inputs: tuple[Tensor, ...]
    ) -> int | None:
        """The number of classes, if the outputs are class scores. Raises InputError, UsageError."""
        shown = self._shown(inputs)
        with evaluating(student, teacher):
            answer(student, shown, "the student")
            answer(teacher, inputs, "the teacher")
            given, wanted = student(*shown), teacher(*inputs)
        told = [_structure(output) for output in (given, wanted)]
        if told[0] != told[1]:
            raise InputError(
                f"the student returns {told[0]} and the teacher {told[1]}: only a network with the "
                "same outputs can teach"
            )
        if are_class_scores(wanted):
            return int(wanted.shape[1])
        if self.loss is None:
            raise UsageError(
                f"soft targets need one row of class scores an image, and the networks return "
                f"{told[1]}; pass loss=..., for instance sepify.distilling.same_outputs"
            )
        return None


def _captured(teacher: Model, inputs: tuple[Tensor, ...], *, needed: bool) -> nn.Module:
    """A copy of the teacher, as it is in evaluation mode."""
    if not isinstance(teacher, nn.Module):
        return _steady(capture(teacher, inputs))
    copied = copy_module(teacher)
    with evaluating(copied):
        try:
            return _steady(capture(copied, inputs))
        except CaptureError as error:
            if needed:
                raise CaptureError(
                    f"{error}; to teach by the outputs alone, give losses=Losses(layers=0)"
                ) from error
    return copied


def _steady(teacher: Captured) -> nn.Module:
    teacher.require_no_state("distillation shows images in any order")
    return teacher.graph_module


def _structure(output: object) -> str:
    """An output in words: containers, and the shape of each tensor."""
    leaves, spec = tree_flatten(output)
    if len(leaves) == 1 and leaves[0] is output:
        return _leaf(output)
    kind = getattr(spec.type, "__name__", "outputs")
    keys = f" {list(output)}" if isinstance(output, dict) else ""
    return f"{kind}{keys} of {', '.join(map(_leaf, leaves))}"


def _leaf(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
