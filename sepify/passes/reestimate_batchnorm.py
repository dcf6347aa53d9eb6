"""Re-estimate BatchNorm statistics: a rewritten convolution shifts what comes after it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, fx
from torch.nn.modules.batchnorm import _BatchNorm

from sepify.errors import InputError
from sepify.graph.modules import buffers_put_back


@torch.no_grad()
def reestimate_batchnorm(
    graph_module: fx.GraphModule, batches: Sequence[tuple[Tensor, ...]]
) -> fx.GraphModule:
    """A copy of `graph_module` whose BatchNorm layers hold the mean and variance that `batches`
    of unlabelled inputs give them: the plain average over batches, no momentum.

    Only BatchNorm runs in training mode meanwhile (dropout stays off). Modes and momenta are as
    before afterwards. Raises InputError if there is no batch, or one has a single image: a
    variance needs two.
    """
    estimated = copy.deepcopy(graph_module)
    norms = [m for m in estimated.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return estimated
    if not batches:
        raise InputError("BatchNorm cannot be re-estimated without calibration data")
    if min(len(batch[0]) for batch in batches) < 2:
        raise InputError("BatchNorm cannot be re-estimated on batches of a single image")
    modes = {module: module.training for module in estimated.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    estimated.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    for batch in batches:
        with buffers_put_back(estimated, but=norms):
            estimated(*batch)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    for module, training in modes.items():
        module.training = training
    return estimated
