"""What torch computes in the place of a kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.shapes import Conv, Epilogue


def in_turn(
    workload: Workload, x: Tensor, parameters: Sequence[Tensor], residual: Tensor | None
) -> Tensor:
    """The parts one after another, `middle` between them, and the epilogue."""
    parts = workload.parts
    for part, weight, bias in zip(parts, parameters[::2], parameters[1::2], strict=True):
        x = convolve(x, part, weight, bias)
        if part is not parts[-1]:
            x = finish(x, None, workload.middle)
    return finish(x, residual, workload.epilogue)


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


def finish(y: Tensor, residual: Tensor | None, epilogue: Epilogue) -> Tensor:
    """The epilogue of `y`."""
    y = y if residual is None else y + residual
    return y if epilogue.clip is None else y.clamp(*epilogue.clip)
