"""A workload on random numbers, and what torch makes of them: a candidate must compute the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv
from sepify.compiling.kernels.weights import Array


def sample(
    workload: Workload, machine: Machine, knobs: Knobs | None = None
) -> tuple[list[Array], Array]:
    """The arguments of the kernel with these knobs, or the default ones, in its own layouts, and
    the output expected of it."""
    knobs = knobs or workload.default_knobs(machine)
    random = torch.Generator().manual_seed(0)
    conv, parts = workload.conv, workload.parts
    x = torch.randn(conv.batch, conv.channels, conv.height, conv.width, generator=random)
    parameters = [tensor for part in parts for tensor in _parameters(part, random)]
    residual = None
    if workload.epilogue.residual:
        last = parts[-1]
        shape = (last.batch, last.outputs, last.out_height, last.out_width)
        residual = torch.randn(shape, generator=random)
    expected = block(workload.kind.reference(workload, x, parameters, residual), machine.lanes)

    kernel = workload.kernel(machine, knobs)
    source = block(x, machine.lanes) if workload.blocked else x.numpy()
    packed = workload.pack(machine, knobs, *(tensor.numpy() for tensor in parameters))
    arguments = [source.reshape(kernel.inputs[0].shape), *packed]
    if residual is not None:
        arguments.append(block(residual, machine.lanes))
    name = machine.element.name
    return [a.astype(name, copy=False) for a in arguments], expected.reshape(kernel.output.shape)


def tolerance(workload: Workload, machine: Machine, knobs: Knobs) -> float:
    """How far a right result may be from torch's, as a part of the largest output: the rounding of
    sums of `depth` products each (Higham 2002, section 3.1: at most depth * u; at random about its
    root), sixteen times over: two sums, torch's are rounded too."""
    depth = sum(part.channels // part.groups * part.window.area for part in workload.parts)
    unit = machine.element.unit
    return float(16 * max(depth, 16) ** 0.5 * unit * workload.kind.growth(knobs))


def block(x: Tensor, lanes: int) -> Array:
    """`(N, C, H, W)` -> `(N, C/v, H, W, v)`, channels padded with zeros."""
    batch, channels, height, width = x.shape
    padded = np.pad(x.numpy(), ((0, 0), (0, -channels % lanes), (0, 0), (0, 0)))
    split = padded.reshape(batch, -1, lanes, height, width).transpose(0, 1, 3, 4, 2)
    return np.ascontiguousarray(split)


def _parameters(conv: Conv, random: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (conv.outputs, conv.channels // conv.groups, *conv.window.kernel)
    return torch.randn(shape, generator=random), torch.randn(conv.outputs, generator=random)
