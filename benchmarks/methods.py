"""Every way that the benchmark makes a network cheaper, under the names of its rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from pruning import conv_macs, prune_channels
from rivals import Rival, cp, spatial, tucker2
from subjects import Subject
from torch import Tensor, fx, nn

import sepify
from sepify.graph.batches import calibration_batches
from sepify.graph.maps import measure_maps
from sepify.graph.modules import set_module
from sepify.passes.reestimate_batchnorm import ReestimateBatchNorm
from sepify.passes.runner import run_passes
from sepify.plans.equal_cost import Family
from sepify.plans.forms import Order

Made = Callable[[Subject, int], nn.Module]


@dataclass(frozen=True)
class Method:
    """`make(subject, rank)` gives the cheaper network; `ours` marks this package's solvers."""

    name: str
    make: Made
    ours: bool = False


def _by_svd(form: Order, batchnorm: bool, subject: Subject, rank: int) -> nn.Module:
    return sepify.convert(
        subject.network,
        rank=rank,
        architecture=sepify.Architecture(form=form),
        keep=(subject.stem,),
        example_inputs=_example(subject),
        calibration=subject.images.calibration if batchnorm else None,
        solver=sepify.Solver(holdout=0, method="svd"),
    )


def _by_least_squares(
    form: Family | None, refine: bool, subject: Subject, rank: int, mirrored: bool = False
) -> nn.Module:
    """`form` None: whichever suits each layer. `mirrored`: calibrated on the same images and their
    mirror images."""
    images = subject.images.calibration
    return sepify.convert(
        subject.network,
        rank=rank,
        architecture=sepify.Architecture(form=form),
        keep=(subject.stem,),
        example_inputs=_example(subject),
        calibration=torch.cat([images, images.flip(3)]) if mirrored else images,
        solver=sepify.Solver(holdout=0, refine=refine),
    )


def _by_rival(rival: Rival, subject: Subject, rank: int) -> nn.Module:
    """Each layer that we would separate, by `rival` at what ours would cost as dw-pw there."""
    example = _example(subject)
    plan = sepify.plan(subject.network, example, rank=rank, keep=(subject.stem,))
    rewritten = fx.GraphModule(copy.deepcopy(subject.network), fx.Tracer().trace(subject.network))
    maps = measure_maps(rewritten, (example,))
    for decision in plan.rewritten:
        conv = rewritten.get_submodule(decision.name)
        assert isinstance(conv, nn.Conv2d)
        assert decision.after.macs is not None
        at = maps[decision.name]
        replacement = rival(conv, int(at.read), int(at.written), decision.after.macs)
        set_module(rewritten, decision.name, replacement.eval())
    passes = [ReestimateBatchNorm(calibration_batches(subject.images.calibration))]
    return run_passes(rewritten, passes).graph_module


def _by_pruning(subject: Subject, rank: int) -> nn.Module:
    """Pruned to the multiply-adds of our dw-pw network."""
    example = _example(subject)
    ours = _by_svd("dw-pw", False, subject, rank)
    pruned = prune_channels(subject.network, example, conv_macs(ours, example), subject.unprunable)
    graph = fx.GraphModule(pruned, fx.Tracer().trace(pruned))
    passes = [ReestimateBatchNorm(calibration_batches(subject.images.calibration))]
    return run_passes(graph, passes).graph_module


def _example(subject: Subject) -> Tensor:
    return torch.clone(subject.images.test[:1])


METHODS: tuple[Method, ...] = (
    Method("SVD dw-pw", partial(_by_svd, "dw-pw", False)),
    Method("SVD dw-pw, BN", partial(_by_svd, "dw-pw", True)),
    Method("SVD pw-dw", partial(_by_svd, "pw-dw", False)),
    Method("SVD pw-dw, BN", partial(_by_svd, "pw-dw", True)),
    Method("CP, BN", partial(_by_rival, cp)),
    Method("Tucker-2, BN", partial(_by_rival, tucker2)),
    Method("spatial kx1-1xk, BN", partial(_by_rival, spatial)),
    Method("channel pruning, BN", _by_pruning),
    Method("ours dw-pw, solved", partial(_by_least_squares, "dw-pw", False), ours=True),
    Method("ours pw-dw, solved", partial(_by_least_squares, "pw-dw", False), ours=True),
    Method("ours dw-pw, refined", partial(_by_least_squares, "dw-pw", True), ours=True),
    Method("ours pw-dw, refined", partial(_by_least_squares, "pw-dw", True), ours=True),
    Method("ours bottleneck, solved", partial(_by_least_squares, "bottleneck", False), ours=True),
    Method("ours spatial, solved", partial(_by_least_squares, "spatial", False), ours=True),
    Method("ours any form, solved", partial(_by_least_squares, None, False), ours=True),
    Method("ours any form, refined", partial(_by_least_squares, None, True), ours=True),
    Method(
        "dw-pw refined, mirrored",
        partial(_by_least_squares, "dw-pw", True, mirrored=True),
        ours=True,
    ),
    Method("any form, mirrored", partial(_by_least_squares, None, True, mirrored=True), ours=True),
)
