"""The copy of a network that solvers and planners run: for inference, nothing written in place."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from torch import fx

from sepify.passes.fold_batchnorm import fold_batchnorm
from sepify.passes.out_of_place import make_out_of_place
from sepify.passes.pipeline import Step, run_passes


def inference_copy(graph_module: fx.GraphModule, untouched: Collection[str]) -> fx.GraphModule:
    """A copy in inference mode without gradients, in-place operations and the BatchNorm that can be
    folded, but for that behind the convolutions named in `untouched`."""
    steps = (
        Step("make-out-of-place", make_out_of_place),
        Step("freeze", _freeze, in_place=True),  # BatchNorm in training mode is not folded
        Step("fold-batchnorm", partial(fold_batchnorm, untouched=untouched)),
    )
    return run_passes(graph_module, steps)


def _freeze(graph_module: fx.GraphModule) -> fx.GraphModule:
    graph_module.eval().requires_grad_(False)
    return graph_module
