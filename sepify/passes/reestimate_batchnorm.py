"""Re-estimate BatchNorm statistics: a rewritten convolution shifts what comes after it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _BatchNorm

from sepify.errors import InputError
from sepify.graph.modes import evaluating
from sepify.graph.modules import buffers_put_back
from sepify.passes.base import Pass, Result


@dataclass(frozen=True)
class ReestimateBatchNorm(Pass):
    """BatchNorm layers hold the mean and variance that `batches` of unlabelled inputs give them:
    the plain average over batches, no momentum.

    Only BatchNorm runs in training mode meanwhile (dropout stays off). Modes and momenta are as
    before afterwards.

    Args:
        batches: inputs, (B, ...) each; None where there are no calibration data.

    Raises:
        InputError: there is no batch, or one has a single image: a variance needs two.
    """

    batches: Sequence[tuple[Tensor, ...]] | None = field(default=None, repr=False)

    @torch.no_grad()
    def apply(self, graph_module: fx.GraphModule) -> Result:
        """Re-estimate in a copy; the sites are its BatchNorm layers."""
        estimated = copy.deepcopy(graph_module)
        layers = {p: m for p, m in estimated.named_modules() if isinstance(m, _BatchNorm)}
        if self.batches is None:
            return Result(estimated, False, dict.fromkeys(layers, "there are no calibration data"))
        norms = [norm for norm in layers.values() if norm.track_running_stats]
        left_alone = {
            path: "it keeps no running statistics"
            for path, norm in layers.items()
            if not norm.track_running_stats
        }
        if not norms:
            return Result(estimated, False, left_alone)
        if not self.batches:
            raise InputError("BatchNorm cannot be re-estimated without calibration data")
        if min(len(batch[0]) for batch in self.batches) < 2:
            raise InputError("BatchNorm cannot be re-estimated on batches of a single image")
        momenta = {norm: norm.momentum for norm in norms}
        with evaluating(estimated):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative average
                norm.train()
            for batch in self.batches:
                with buffers_put_back(estimated, but=norms):
                    estimated(*batch)
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        return Result(estimated, True, left_alone)
