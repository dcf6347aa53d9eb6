"""Operators that TVM's importer lacks or gets wrong, said in those that it has right.

Sizes are fixed when a network is compiled, so whatever follows from sizes alone is a constant that
TVM folds. What torch decomposes itself by default (`torch.export.default_decompositions`) is not
repeated here, unless TVM is wrong about the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten

Pair = Sequence[int]

_UNARY = ["cos", "erf", "exp", "log", "reciprocal", "rsqrt", "sigmoid", "sin", "sqrt"]
_BINARY = ["add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"]
_OF_TRUTHS = {aten.mul.Tensor: torch.logical_and, aten.add.Tensor: torch.logical_or}


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The table for `ExportedProgram.run_decompositions`: torch's own, and ours."""
    table: dict[Any, Callable[..., Any]] = dict(torch.export.default_decompositions().items())
    ours: dict[Any, Callable[..., Any]] = {
        aten._cdist_forward.default: _cdist,
        aten._convolution.default: _convolution,
        aten._upsample_bilinear2d_aa.default: _bilinear_antialiased,
        aten.adaptive_max_pool2d.default: _adaptive_max_pool,
        aten.any.default: _any,
        aten.avg_pool2d.default: _avg_pool,
        aten.col2im.default: _col2im,
        aten.div.Tensor_mode: _divide,
        aten.div.Scalar_mode: _divide,
        aten.floor_divide.default: _floor_divide,
        aten.im2col.default: _im2col,
        aten.linear.default: _linear,
        aten.native_group_norm.default: _group_norm,
        aten.rrelu_with_noise_functional.default: _rrelu,
        aten.select.int: _select,
        aten.selu.default: _selu,
        aten.unfold.default: _unfold,
        aten.upsample_bilinear2d.vec: _bilinear,
        aten.upsample_nearest2d.vec: _nearest,
    }
    for name in _UNARY:
        operator = getattr(aten, name).default
        ours[operator] = partial(_of_floats, operator)
    for name in _BINARY:
        for operator in (getattr(aten, name).Tensor, getattr(aten, name).Scalar):
            ours[operator] = partial(_of_one_type, operator)
    return {**table, **ours}


def _of_floats(operator: Any, x: Tensor) -> Any:
    """torch takes the logarithm of whole numbers, TVM does not."""
    return NotImplemented if x.dtype.is_floating_point else operator(x.to(torch.float32))


def _of_one_type(operator: Any, *operands: Any, **settings: Any) -> Any:
    """Torch gives a whole number and another the latter's type; TVM the former's, or none."""
    common = torch.result_type(*operands)
    if operator in (aten.div.Tensor, aten.div.Scalar) and not common.is_floating_point:
        common = torch.float32
    if common == torch.bool and operator in _OF_TRUTHS:
        return _OF_TRUTHS[operator](*operands)
    tensors = [x for x in operands if isinstance(x, Tensor)]
    if all(x.dtype == common for x in tensors):
        return NotImplemented
    alike = (x.to(common) if isinstance(x, Tensor) else x for x in operands)
    return operator(*alike, **settings)


def _convolution(*arguments: Any) -> Any:
    """As torch.jit.trace records it, with switches for GPUs after the nine arguments that count."""
    return aten.convolution.default(*arguments[:9])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """Row by row; torch repeats the weight for each element of a batch that is not contiguous, each
    time step of an LSTM for one, and the copies would be stored."""
    rows, columns = x.reshape(-1, x.shape[-1]), weight.transpose(0, 1)
    mm, addmm = aten.mm.default, aten.addmm.default
    y = mm(rows, columns) if bias is None else addmm(bias, rows, columns)
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], weight.shape[0])


def _any(x: Tensor) -> Any:
    """Reduce a whole tensor: TVM does so along a dimension alone."""
    return aten.any.dim(x.reshape(-1), 0)


def _selu(x: Tensor) -> Tensor:
    """Klambauer et al., Self-Normalizing Neural Networks, 2017, eq. 2."""
    alpha, scale = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
    return torch.where(x > 0, scale * x, scale * alpha * torch.expm1(x))


def _select(x: Tensor, dim: int, index: int) -> Any:
    """From the end, where TVM would read before the beginning."""
    return NotImplemented if index >= 0 else aten.select.int(x, dim, index + x.shape[dim])


def _group_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any) -> Any:
    """With a weight and no bias, which TVM stumbles over."""
    if weight is None or bias is not None:
        return NotImplemented
    return aten.native_group_norm.default(x, weight, torch.zeros_like(weight), *rest)


def _rrelu(
    x: Tensor, noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Any:
    """Whose slope is random in training mode alone."""
    return NotImplemented if training else (F.leaky_relu(x, (lower + upper) / 2), noise)


def _divide(x: Tensor, by: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is None:
        return NotImplemented
    if not isinstance(by, Tensor):  # for which TVM takes 32 bits
        by = torch.full((), by, dtype=torch.result_type(x, by), device=x.device)
    if not torch.result_type(x, by).is_floating_point:
        if rounding_mode == "floor":
            return aten.floor_divide.default(x, by)
        return x.sign() * by.sign() * aten.floor_divide.default(x.abs(), by.abs())
    quotient = x / by
    return torch.floor(quotient) if rounding_mode == "floor" else torch.trunc(quotient)


def _floor_divide(x: Tensor, by: Any) -> Any:
    whole = not isinstance(x, Tensor) or not x.dtype.is_floating_point
    if isinstance(by, Tensor) and whole and not by.dtype.is_floating_point:
        return NotImplemented
    return _divide(x, by, rounding_mode="floor")


def _cdist(a: Tensor, b: Tensor, p: float, _mode: int | None) -> Tensor:
    difference = (a.unsqueeze(-2) - b.unsqueeze(-3)).abs()
    if p == 2:
        return (difference * difference).sum(-1).sqrt()
    return difference.sum(-1) if p == 1 else difference.pow(p).sum(-1).pow(1 / p)


def _avg_pool(
    x: Tensor,
    kernel: Pair,
    stride: Pair = (),
    padding: Pair = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Only where a divisor is given; then every window counts as whole."""
    if divisor_override is None or ceil_mode:
        return NotImplemented
    height, width = kernel[0], kernel[-1]
    mean = F.avg_pool2d(x, (height, width), tuple(stride) or None, tuple(padding))
    return mean * (height * width / divisor_override)


def _adaptive_max_pool(x: Tensor, size: Pair) -> tuple[Tensor, Tensor]:
    """Window by window. The positions, which few ask for, are dropped where nobody does."""
    height, width = x.shape[-2:]
    rows, columns = _windows(height, size[0]), _windows(width, size[1])
    best: list[Tensor] = []
    places: list[Tensor] = []
    for top, bottom in rows:
        for left, right in columns:
            window = x[..., top:bottom, left:right].flatten(-2)
            place = window.argmax(-1)
            row = torch.div(place, right - left, rounding_mode="floor")
            places.append((row + top) * width + place - row * (right - left) + left)
            best.append(window.amax(-1))
    shape = (*x.shape[:-2], *size)
    return torch.stack(best, -1).reshape(shape), torch.stack(places, -1).reshape(shape)


def _windows(extent: int, count: int) -> list[tuple[int, int]]:
    """Where the windows of an adaptive pooling begin and end."""
    return [(i * extent // count, -(-(i + 1) * extent // count)) for i in range(count)]


def _im2col(x: Tensor, kernel: Pair, dilation: Pair, padding: Pair, stride: Pair) -> Tensor:
    """The windows of an image as columns: a slice for each place in the window."""
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = (
        (x.shape[i - 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    parts = []
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            top, left = i * dilation[0], j * dilation[1]
            bottom, right = top + stride[0] * (rows - 1) + 1, left + stride[1] * (columns - 1) + 1
            parts.append(x[..., top : bottom : stride[0], left : right : stride[1]])
    return torch.stack(parts, -3).reshape(*x.shape[:-3], -1, rows * columns)


def _unfold(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Windows along one dimension, each in a last dimension of its own: a slice for each place."""
    last = step * ((x.shape[dim] - size) // step) + 1
    return torch.stack([aten.slice.Tensor(x, dim, i, i + last, step) for i in range(size)], -1)


def _col2im(
    x: Tensor, size: Pair, kernel: Pair, dilation: Pair, padding: Pair, stride: Pair
) -> Any:
    """The sum of columns where they came from: a transposed convolution that copies."""
    if x.dim() != 3:
        return NotImplemented
    taps = kernel[0] * kernel[1]
    padded = [size[i] + 2 * padding[i] for i in (0, 1)]
    rows, columns = (
        (padded[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    batch, channels = x.shape[0], x.shape[1] // taps
    copies = torch.eye(taps, dtype=x.dtype, device=x.device).reshape(taps, 1, *kernel)
    image = x.reshape(batch * channels, taps, rows, columns)
    image = F.conv_transpose2d(image, copies, stride=tuple(stride), dilation=tuple(dilation))
    missing = [padded[i] - image.shape[i + 2] for i in (0, 1)]  # where the stride does not fit
    image = F.pad(image, (0, missing[1], 0, missing[0]))
    image = image[..., padding[0] : padding[0] + size[0], padding[1] : padding[1] + size[1]]
    return image.reshape(batch, channels, *size)


def _nearest(x: Tensor, size: Pair | None, factors: Sequence[float] | None) -> Any:
    """Where the factor is no whole number, for which TVM rounds otherwise."""
    out = _output_size(x, size, factors)
    if all(large % small == 0 for large, small in zip(out, x.shape[2:], strict=True)):
        return NotImplemented
    for axis in (0, 1):
        step = 1 / factors[axis] if factors else x.shape[axis + 2] / out[axis]
        places = (torch.arange(out[axis], dtype=torch.float32) * step).floor().long()
        x = x.index_select(axis + 2, places.clamp(0, x.shape[axis + 2] - 1))
    return x


def _bilinear(
    x: Tensor, size: Pair | None, align_corners: bool, factors: Sequence[float] | None
) -> Any:
    """Where the factor is not that of the sizes, which is the only one that TVM takes."""
    out = _output_size(x, size, factors)
    same = all(f * s == o for f, s, o in zip(factors or (), x.shape[2:], out, strict=False))
    if align_corners or not factors or same:
        return NotImplemented
    for axis, factor in enumerate(factors):
        extent = x.shape[axis + 2]
        places = (torch.arange(out[axis], dtype=torch.float32) + 0.5) / factor - 0.5
        places = places.clamp(0, extent - 1)  # half a pixel being its centre
        below = places.floor().long()
        above = (below + 1).clamp(0, extent - 1)
        part = (places - below).reshape(-1, *([1] * (1 - axis)))
        x = torch.lerp(x.index_select(axis + 2, below), x.index_select(axis + 2, above), part)
    return x


def _bilinear_antialiased(
    x: Tensor, size: Pair, align_corners: bool, *factors: float | None
) -> Any:
    """As Pillow does: a triangle as wide as a pixel of the smaller image."""
    if align_corners:
        return NotImplemented
    weights = []
    for axis, factor in enumerate((*factors, None, None)[:2]):
        extent = x.shape[axis + 2]
        step = 1 / factor if factor else extent / size[axis]
        centres = (torch.arange(size[axis], dtype=torch.float32) + 0.5) * step
        offsets = torch.arange(extent, dtype=torch.float32) + 0.5 - centres[:, None]
        triangle = (1 - (offsets / max(step, 1.0)).abs()).clamp(min=0)
        weights.append(triangle / triangle.sum(1, keepdim=True))
    return weights[0] @ x @ weights[1].transpose(0, 1)


def _output_size(x: Tensor, size: Pair | None, factors: Sequence[float] | None) -> list[int]:
    if size is not None:
        return list(size)
    assert factors is not None  # the operator demands one of them
    return [int(extent * factor) for extent, factor in zip(x.shape[2:], factors, strict=True)]
