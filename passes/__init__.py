"""The passes of sepify, for whoever looks for them first; the code is in `sepify/passes/`.

What can be imported here are the very objects of `sepify.passes`, a file of that folder each:

    base                    Pass, Result, Condition: what a pass is
    pipelines               PREPARE, CONVERT, QUANTISE, COMPILE: which run, in which order, and why
    runner                  run_passes: applies them and holds each to what it declares
    dump                    dumping: writes the graph between passes

    as_conv2d               transposed and one-dimensional convolutions -> Conv2d
    cast                    fewer bits within, inputs and outputs as they were
    complete_blocks         BatchNorm and activation behind separable convolutions
    drop_checks             nothing is asserted any more
    flatten_outputs         the outputs come in one tuple
    fold_batchnorm          BatchNorm -> into the convolution before it
    freeze                  evaluation mode, no gradients
    out_of_place            nothing is overwritten
    plain_dict_outputs      dataclasses in the outputs -> dicts
    plain_numbers           Python's max and min of sizes
    reestimate_batchnorm    statistics as the calibration images give them
    round_values            activations -> integer grids
    round_weights           weights -> integers
    separate                convolutions -> the chains that stand in for them
    settle_batchnorm        true statistics, the function unchanged
    spare_strided_depthwise float32 for what bf16 makes slow on a CPU
    thin_channels           a share of the channels of every layer

This folder is not installed. How a pass is added: docs/how-to/add-a-pass.md.
"""

from sepify.passes import base, dump, pipelines, runner
from sepify.passes.as_conv2d import AsConv2d
from sepify.passes.base import Condition, Pass, Result
from sepify.passes.cast import Cast
from sepify.passes.complete_blocks import CompleteBlocks
from sepify.passes.drop_checks import DropChecks
from sepify.passes.dump import dumping
from sepify.passes.flatten_outputs import FlattenOutputs
from sepify.passes.fold_batchnorm import FoldBatchNorm
from sepify.passes.freeze import Freeze
from sepify.passes.out_of_place import MakeOutOfPlace
from sepify.passes.plain_dict_outputs import PlainDictOutputs
from sepify.passes.plain_numbers import PlainNumbers
from sepify.passes.reestimate_batchnorm import ReestimateBatchNorm
from sepify.passes.round_values import RoundValues
from sepify.passes.round_weights import RoundWeights
from sepify.passes.runner import run_passes
from sepify.passes.separate import SeparateConvolutions
from sepify.passes.settle_batchnorm import SettleBatchNorm
from sepify.passes.spare_strided_depthwise import SpareStridedDepthwise
from sepify.passes.thin_channels import ThinChannels

__all__ = [
    "AsConv2d",
    "Cast",
    "CompleteBlocks",
    "Condition",
    "DropChecks",
    "FlattenOutputs",
    "FoldBatchNorm",
    "Freeze",
    "MakeOutOfPlace",
    "Pass",
    "PlainDictOutputs",
    "PlainNumbers",
    "ReestimateBatchNorm",
    "Result",
    "RoundValues",
    "RoundWeights",
    "SeparateConvolutions",
    "SettleBatchNorm",
    "SpareStridedDepthwise",
    "ThinChannels",
    "base",
    "dump",
    "dumping",
    "pipelines",
    "run_passes",
    "runner",
]
