"""The pipelines: which passes run, in which order, and why each stands where it does.

A pipeline is a tuple of passes. Those that need what is only known later, such as solved factors,
stand here without it: `with_options` fills it in. To put in a pass of your own, or take one out,
make another tuple and hand it to `sepify.Solver` or `sepify.compile`:

    mine = with_pass(CONVERT, MyPass(), after=SeparateConvolutions)
    convert(model, ..., solver=Solver(pipeline=mine))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from sepify.errors import UsageError
from sepify.factorize.factors import Factors
from sepify.graph.grids import Grid, RoundedWeights
from sepify.passes.as_conv2d import AsConv2d
from sepify.passes.base import Pass
from sepify.passes.complete_blocks import ADDED_NORMS, CompleteBlocks
from sepify.passes.drop_checks import DropChecks
from sepify.passes.flatten_outputs import FlattenOutputs
from sepify.passes.fold_batchnorm import FoldBatchNorm
from sepify.passes.freeze import Freeze
from sepify.passes.out_of_place import MakeOutOfPlace
from sepify.passes.plain_dict_outputs import PlainDictOutputs
from sepify.passes.reestimate_batchnorm import ReestimateBatchNorm
from sepify.passes.round_values import RoundValues
from sepify.passes.round_weights import RoundWeights
from sepify.passes.runner import run_passes
from sepify.passes.separate import SeparateConvolutions
from sepify.passes.settle_batchnorm import SettleBatchNorm

Pipeline = tuple[Pass, ...]

PREPARE: Pipeline = (
    # first, on a copy: solvers keep the values between layers, which nothing may overwrite
    MakeOutOfPlace(),
    # before folding, which leaves BatchNorm in training mode alone
    Freeze(),
    # last: a BatchNorm is in the very convolution that reads on, but for those to be separated
    FoldBatchNorm(),
)
"""The copy of a captured network that solvers and planners run."""

CONVERT: Pipeline = (
    # first: the others are about the layers that it makes
    SeparateConvolutions(),
    # behind the new pointwise convolutions, in style "mobilenet"
    CompleteBlocks(),
    # the BatchNorm that was added knows no statistics yet
    SettleBatchNorm(),
    # last: what is rewritten before it shifts what every BatchNorm sees
    ReestimateBatchNorm(),
)
"""From a captured network and solved factors to the converted one."""

QUANTISE: Pipeline = (
    # as PREPARE, whose graph the grids and the integers were found on: nothing overwrites a value
    # that two readers share
    MakeOutOfPlace(),
    Freeze(),
    # before weights are rounded: they are those of the folded layers
    FoldBatchNorm(),
    # before the weights: a layer reads the codes of its input
    RoundValues(),
    # last: integers in place of the layers' own weights
    RoundWeights(),
)
"""From a network in float32, and the grids and integers that were found for it, to the quantised
one. It comes after CONVERT and distillation, as it rounds the weights that those end with."""

COMPILE: Pipeline = (
    # first: the outputs are flattened field by field
    PlainDictOutputs(),
    # compiled code returns tensors alone; what computes nothing else goes here, before work on it
    FlattenOutputs(),
    # before transposed convolutions are widened: it looks for a convolution right before BatchNorm
    FoldBatchNorm(),
    # own kernels are of Conv2d
    AsConv2d(),
    # last: what a check alone reads may be there until the others have looked at it
    DropChecks(),
)
"""From a captured network in evaluation mode to what torch.export and TVM are given."""


def with_pass(
    pipeline: Pipeline,
    new: Pass,
    *,
    after: type[Pass] | None = None,
    before: type[Pass] | None = None,
) -> Pipeline:
    """`pipeline` with one more pass, behind or before the pass of a type; at the end without.

    Raises UsageError if both are given, or the pipeline has no pass of that type.
    """
    if after is not None and before is not None:
        raise UsageError("a pass goes after one or before one: say one of them")
    place = after or before
    if place is None:
        return (*pipeline, new)
    at = _index(pipeline, place) + (after is not None)
    return (*pipeline[:at], new, *pipeline[at:])


def without_pass(pipeline: Pipeline, kind: type[Pass]) -> Pipeline:
    """`pipeline` without its first pass of this type. Raises UsageError if there is none."""
    at = _index(pipeline, kind)
    return (*pipeline[:at], *pipeline[at + 1 :])


def with_options(
    pipeline: Pipeline, options: Mapping[type[Pass], Mapping[str, Any] | None]
) -> Pipeline:
    """`pipeline` with fields of its passes set, by type; with None for one that has nothing to do
    and is left out."""
    filled: list[Pass] = []
    for item in pipeline:
        given = options.get(type(item), {})
        if given is not None:
            filled.append(dataclasses.replace(item, **given))
    return tuple(filled)


def _index(pipeline: Pipeline, kind: type[Pass]) -> int:
    for index, item in enumerate(pipeline):
        if type(item) is kind:
            return index
    names = ", ".join(type(item).__name__ for item in pipeline) or "none"
    raise UsageError(f"the pipeline has no pass {kind.__name__}; it has {names}")


def inference_copy(graph_module: fx.GraphModule, untouched: Collection[str]) -> fx.GraphModule:
    """A copy in inference mode without gradients, in-place operations and the BatchNorm that can be
    folded, but for that behind the convolutions named in `untouched`."""
    passes = with_options(PREPARE, {FoldBatchNorm: {"untouched": frozenset(untouched)}})
    return run_passes(graph_module, passes).graph_module


def conversion(
    pipeline: Pipeline,
    factors: Mapping[str, Factors],
    batches: Sequence[tuple[Tensor, ...]] | None,
    *,
    ceiling: float | None,
    batchnorm: bool,
) -> Pipeline:
    """`pipeline`, CONVERT as a rule, with what was solved filled in.

    Args:
        pipeline: the passes.
        factors: of each convolution to separate, by path.
        batches: calibration data, (B, ...) each, if there are any.
        ceiling: of the activations of complete MobileNet blocks; None for a linear style.
        batchnorm: whether BatchNorm is re-estimated on `batches`.

    Raises UsageError for a pipeline that separates nothing.
    """
    _index(pipeline, SeparateConvolutions)
    names = tuple(factors)
    added = tuple(f"{name}.{norm}" for name in names for norm in ADDED_NORMS)
    completing = ceiling is not None
    blocks = {"names": names, "ceiling": ceiling}
    settled = {"names": added, "batches": batches}
    estimated = {"batches": batches}
    return with_options(
        pipeline,
        {
            SeparateConvolutions: {"factors": factors},
            CompleteBlocks: blocks if completing else None,
            SettleBatchNorm: settled if completing and batches is not None else None,
            ReestimateBatchNorm: estimated if batchnorm and batches is not None else None,
        },
    )


def quantisation(grids: Mapping[str, Grid], layers: Mapping[str, RoundedWeights]) -> Pipeline:
    """QUANTISE with what was found filled in: grids by the names of nodes, integers by the paths of
    layers."""
    return with_options(
        QUANTISE,
        {RoundValues: {"grids": grids}, RoundWeights: {"layers": layers}},
    )
