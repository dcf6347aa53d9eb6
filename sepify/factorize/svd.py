"""Per-channel SVD: the best separable approximation of the weights alone, without any data.

Network Decoupling (Guo et al., BMVC 2018) shows that a standard kernel is a sum of separable terms,
one singular triplet of each channel's matrix a term; the truncation is the best in the Frobenius
norm (Eckart and Young 1936). Best for the *weights* is far from best for the outputs: see the
least-squares solver, for which this is the starting point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sepify.errors import ConversionError
from sepify.factorize.factors import SeparableFactors
from sepify.plans.forms import Order, full_rank


def factorize_svd(weight: Tensor, bias: Tensor | None, order: Order, rank: int) -> SeparableFactors:
    """Separate a kernel (N, M, kh, kw) into `rank` terms a channel; dtype and device are kept.

    dw-pw: for each input channel m the matrix (N, kh*kw), its r first singular triplets.
    pw-dw: for each output channel n the matrix (M, kh*kw), likewise.
    Each singular value is split evenly, sqrt(s) to either factor. Computed in float64.

    Raises ConversionError if the weights hold NaN or infinity, or if rank is not in 1..full rank.
    """
    shape = tuple(weight.shape)
    highest = full_rank(shape, order)
    if not 1 <= rank <= highest:
        raise ConversionError(f"rank {rank} is not in 1..{highest} for a kernel {shape}, {order}")
    if not torch.isfinite(weight).all():
        raise ConversionError("the weights hold NaN or infinity")
    out_channels, in_channels, kh, kw = shape
    kernel = weight.detach().double().reshape(out_channels, in_channels, kh * kw)
    matrices = kernel.transpose(0, 1) if order == "dw-pw" else kernel
    u, s, vh = torch.linalg.svd(matrices, full_matrices=False)
    root = s[:, :rank].sqrt()
    filters = vh[:, :rank] * root[:, :, None]  # (channels, r, kh*kw)
    mix = u[:, :, :rank] * root[:, None, :]  # (channels, N or M, r)
    if order == "dw-pw":
        depthwise = filters.reshape(in_channels * rank, 1, kh, kw)
        pointwise = mix.permute(1, 0, 2).reshape(out_channels, in_channels * rank, 1, 1)
    else:
        depthwise = filters.reshape(out_channels, rank, kh, kw)
        pointwise = mix.transpose(1, 2).reshape(out_channels * rank, in_channels, 1, 1)
    return SeparableFactors(
        order,
        rank,
        depthwise.to(weight.dtype).contiguous(),
        pointwise.to(weight.dtype).contiguous(),
        None if bias is None else bias.detach().clone(),
    )


def svd_error(weight: Tensor, order: Order, rank: int) -> float:
    """Share of the kernel's squared Frobenius norm that truncation at `rank` loses, 0 to 1."""
    out_channels, in_channels, kh, kw = weight.shape
    kernel = weight.detach().double().reshape(out_channels, in_channels, kh * kw)
    matrices = kernel.transpose(0, 1) if order == "dw-pw" else kernel
    energy = torch.linalg.svdvals(matrices).square()
    total = energy.sum().item()
    return 0.0 if total == 0 else energy[:, rank:].sum().item() / total
