"""Other factorisations of a convolution, each at a given number of multiply-adds.

Each rival takes a convolution and the pixels that it reads and writes for one image, and returns a
small chain of convolutions that costs as near as it can to `macs`; it solves on weights alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import tensorly
import torch
from tensorly.decomposition import parafac, partial_tucker
from torch import Tensor, nn

Rival = Callable[[nn.Conv2d, int, int, int], nn.Sequential]


def cp(conv: nn.Conv2d, read: int, written: int, macs: int) -> nn.Sequential:
    """Canonical polyadic: 1x1 M->R, kx1 depthwise, 1xk depthwise, 1x1 R->N (Lebedev et al. 2015).

    Alternating least squares from the SVD, by tensorly.
    """
    n, m, kh, kw = conv.weight.shape
    halfway = _halfway(conv, read, written)
    term = m * read + kh * halfway + (kw + n) * written
    rank = max(1, round(macs / term))
    tensorly.set_backend("numpy")
    kernel = conv.weight.detach().double().numpy()
    with warnings.catch_warnings():  # more terms than a 3-wide axis has singular vectors
        warnings.filterwarnings("ignore", "Trying to compute SVD")
        weights, (outs, ins, columns, rows) = parafac(
            kernel, rank, n_iter_max=200, init="svd", tol=1e-7, l2_reg=1e-9, random_state=0
        )
    first = _convolution(conv, m, rank, (1, 1), ins.T[:, :, None, None])
    down = _convolution(conv, rank, rank, (kh, 1), columns.T[:, None, :, None], groups=rank)
    across = _convolution(conv, rank, rank, (1, kw), rows.T[:, None, None, :], groups=rank)
    last = _convolution(conv, rank, n, (1, 1), (outs * weights)[:, :, None, None], bias=True)
    return nn.Sequential(first, down, across, last)


def tucker2(conv: nn.Conv2d, read: int, written: int, macs: int) -> nn.Sequential:
    """Tucker over the channels: 1x1 M->R1, kxk R1->R2, 1x1 R2->N (Kim et al. 2016), with
    R1/M = R2/N as nearly as whole numbers allow. Higher-order iteration by tensorly."""
    n, m, kh, kw = conv.weight.shape

    def cost(ranks: tuple[int, int]) -> int:
        into, out = ranks
        return into * m * read + out * (into * kh * kw + n) * written

    shares = np.linspace(0, 1, 4 * max(m, n) + 1)[1:]
    pairs = {(max(1, round(share * m)), max(1, round(share * n))) for share in shares}
    into, out = min(sorted(pairs), key=lambda ranks: abs(cost(ranks) - macs))
    tensorly.set_backend("numpy")
    kernel = conv.weight.detach().double().numpy()
    (core, (outs, ins)), _ = partial_tucker(kernel, [out, into], modes=[0, 1], n_iter_max=100)
    return nn.Sequential(
        _convolution(conv, m, into, (1, 1), ins.T[:, :, None, None]),
        _convolution(conv, into, out, (kh, kw), core),
        _convolution(conv, out, n, (1, 1), outs[:, :, None, None], bias=True),
    )


def spatial(conv: nn.Conv2d, read: int, written: int, macs: int) -> nn.Sequential:
    """kx1 M->R, then 1xk R->N: the truncated SVD of the kernel as an (M kh, N kw) matrix, best for
    the weights (Jaderberg et al. 2014, scheme 2; Zhang et al. 2015 call it the spatial one)."""
    n, m, kh, kw = conv.weight.shape
    term = m * kh * _halfway(conv, read, written) + n * kw * written
    rank = max(1, round(macs / term))
    matrix = conv.weight.detach().double().permute(1, 2, 0, 3).reshape(m * kh, n * kw)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = min(rank, len(s))
    down = (u[:, :rank] * s[:rank].sqrt()).T.reshape(rank, m, kh, 1)
    across = (vh[:rank] * s[:rank, None].sqrt()).reshape(rank, n, 1, kw).transpose(0, 1)
    return nn.Sequential(
        _convolution(conv, m, rank, (kh, 1), down),
        _convolution(conv, rank, n, (1, kw), across, bias=True),
    )


def _halfway(conv: nn.Conv2d, read: int, written: int) -> int:
    """Pixels of a square map between a vertical and a horizontal convolution."""
    if conv.stride[0] == 1:
        return read
    return round((read * written) ** 0.5)


def _convolution(
    conv: nn.Conv2d,
    channels_in: int,
    channels_out: int,
    kernel: tuple[int, int],
    weight: np.ndarray | Tensor,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """A part of `conv` with the given weight: its stride, padding and dilation along those axes
    where `kernel` extends; `conv`'s bias if this is the last part."""

    def along(values: tuple[int, ...], idle: int) -> tuple[int, int]:
        first, second = (
            value if extent > 1 else idle for value, extent in zip(values, kernel, strict=True)
        )
        return first, second

    assert not isinstance(conv.padding, str)
    part = nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride=along(conv.stride, 1),
        padding=along(conv.padding, 0),
        dilation=along(conv.dilation, 1),
        groups=groups,
        bias=bias and conv.bias is not None,
    )
    with torch.no_grad():
        part.weight.copy_(torch.as_tensor(np.ascontiguousarray(weight)))
        if part.bias is not None and conv.bias is not None:
            part.bias.copy_(conv.bias)
    return part
