"""The original network teaches the converted one: losses, the pair as one module, the loop."""

from sepify.distilling.augment import shift_and_mirror
from sepify.distilling.checkpoint import Checkpoint, Epoch
from sepify.distilling.judging import Judgement
from sepify.distilling.loop import Distillation, distill
from sepify.distilling.losses import Losses, same_outputs, soft_targets
from sepify.distilling.pair import DistillationPair
from sepify.distilling.training import Training

__all__ = [
    "Checkpoint",
    "Distillation",
    "DistillationPair",
    "Epoch",
    "Judgement",
    "Losses",
    "Training",
    "distill",
    "same_outputs",
    "shift_and_mirror",
    "soft_targets",
]
