"""How near the student has come, on held-out images and without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sepify.distilling.pair import DistillationPair
from sepify.graph.modes import evaluating


@dataclass(frozen=True)
class Judgement:
    """`distance`: soft targets or the task's own loss between the two networks' outputs, in
    evaluation mode, the mean over the held-out images: what early stopping and the choice of the
    best go by, as it is smoother than `agreement`, the share of images with the same largest
    output, which is None unless the outputs are class scores."""

    distance: float
    agreement: float | None

    def __str__(self) -> str:
        if self.agreement is None:
            return f"distance {self.distance:.4g}"
        return f"agreement {self.agreement:.1%}"


def judge(
    pair: DistillationPair,
    student: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    process: int,
    processes: int,
) -> Judgement:
    """Judge `student`, in the place of the one in `pair`, on `batches`. Each of several processes
    takes every `processes`-th image, and all get the same answer."""
    from torchmetrics import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy

    device = next(pair.parameters()).device
    distance, agreement = MeanMetric().to(device), None
    if pair.classes is not None:
        agreement = MulticlassAccuracy(pair.classes, average="micro").to(device)
    with evaluating(student):
        for batch in batches:
            inputs = tuple(tensor[process::processes].to(device) for tensor in batch)
            if len(inputs[0]) == 0:
                continue
            value, given, wanted = pair.distance(*inputs, student=student)
            distance.update(value.float(), weight=len(inputs[0]))
            if agreement is not None:
                agreement.update(given.argmax(1), wanted.argmax(1))
    return Judgement(
        float(distance.compute()), None if agreement is None else float(agreement.compute())
    )
