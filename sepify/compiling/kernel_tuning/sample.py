"""A workload on random numbers, and what torch makes of them: a candidate must compute the same."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sepify.compiling.kernels.cook_toom import cook_toom
from sepify.compiling.kernels.elements import FLOAT32
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.weights import Array
from sepify.compiling.kernels.workload import Workload


def sample(workload: Workload, lanes: int, winograd: int = 0) -> tuple[list[Array], Array]:
    """The kernel's arguments, in its own layouts (which the knob `winograd` is part of), and the
    output expected of it."""
    random = torch.Generator().manual_seed(0)
    conv = workload.conv
    x = torch.randn(conv.batch, conv.channels, conv.height, conv.width, generator=random)
    parts = [conv]
    if workload.kind == "separable":
        filters = replace(conv, outputs=conv.channels * workload.rank)
        parts = [filters, _pointwise(filters, workload.outputs)]
    if workload.kind == "pw-dw":
        parts = [conv, workload.spread]
    parameters: list[Array] = []
    y = x
    for part in parts:
        weight, bias = _parameters(part, random)
        parameters += [weight.numpy(), bias.numpy()]
        y = convolve(y, part, weight, bias)
        if part is not parts[-1]:
            y = _finish(y, None, workload.middle)
    residual = torch.randn(y.shape, generator=random) if workload.epilogue.residual else None
    y = _finish(y, residual, workload.epilogue)
    if workload.kind == "dense" and workload.then is not None:
        y = max_pool(y, workload.then)
    expected = block(y, lanes)

    source = block(x, lanes) if workload.blocked else x.numpy()
    if workload.kind == "linear":
        source = source.reshape(conv.batch, conv.channels)
        expected = expected.reshape(conv.batch, -1, lanes)
    arguments = [source, *workload.pack(lanes, *parameters, winograd=winograd)]
    return arguments if residual is None else [*arguments, block(residual, lanes)], expected


def _pointwise(conv: Conv, outputs: int) -> Conv:
    """A pointwise convolution of what `conv` gives."""
    height, width = conv.out_height, conv.out_width
    point = Window((1, 1))
    return Conv(conv.batch, conv.outputs, height, width, outputs, point, height, width)


def tolerance(workload: Workload, winograd: int = 0) -> float:
    """How far a right result may be from torch's, as a part of the largest output: the rounding of
    sums of `depth` products each (Higham 2002, section 3.1: at most depth * u; at random about its
    root), sixteen times over: two sums, torch's are rounded too. Winograd's tiles make it grow."""
    conv = workload.conv
    depth = conv.channels // conv.groups * conv.window.area
    if workload.kind == "separable":
        depth += workload.rank * conv.channels
    if workload.kind == "pw-dw":
        depth += workload.spread.channels // workload.spread.groups * workload.spread.window.area
    growth = cook_toom(winograd).growth if winograd else 1.0
    return float(16 * max(depth, 16) ** 0.5 * FLOAT32.unit * growth)


def block(x: Tensor, lanes: int) -> Array:
    """`(N, C, H, W)` -> `(N, C/v, H, W, v)`, channels padded with zeros."""
    batch, channels, height, width = x.shape
    padded = np.pad(x.numpy(), ((0, 0), (0, -channels % lanes), (0, 0), (0, 0)))
    split = padded.reshape(batch, -1, lanes, height, width).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(split)


def convolve(x: Tensor, conv: Conv, weight: Tensor, bias: Tensor) -> Tensor:
    """torch's convolution, or fully connected layer, of `x` `(N, C, H, W)`."""
    window = conv.window
    top, left, bottom, right = window.padding
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(padded, weight, bias, window.stride, 0, window.dilation, conv.groups)


def max_pool(x: Tensor, pool: Conv) -> Tensor:
    """torch's max pooling of `x` `(N, C, H, W)`."""
    window = pool.window
    top, left, bottom, right = window.padding
    padded = F.pad(x, (left, right, top, bottom), value=-math.inf)
    return F.max_pool2d(padded, window.kernel, window.stride, 0, window.dilation)


def _parameters(conv: Conv, random: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (conv.outputs, conv.channels // conv.groups, *conv.window.kernel)
    return torch.randn(shape, generator=random), torch.randn(conv.outputs, generator=random)


def _finish(y: Tensor, residual: Tensor | None, epilogue: Epilogue) -> Tensor:
    y = y if residual is None else y + residual
    return y if epilogue.clip is None else y.clamp(*epilogue.clip)
