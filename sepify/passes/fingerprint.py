"""Fingerprints of tensors: whether a pass wrote to its input shows without a copy of every weight.

The bits are read as rows of 1,024 integers of 64 bits. A row's hash is the sum of each integer
times an odd random one, modulo 2^64; the hashes are hashed so in turn until one is left
(multilinear hashing: Carter and Wegman 1979, "Universal classes of hash functions"). One changed
integer always shows, as odd numbers have inverses; several do, permuted ones too, but for a chance
of 2^-31 at most, where none but the upper halves differ. Version counters would be cheaper, but do
not count writes through `.data`.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache

import torch
from torch import Tensor, fx

_ROW = 1024  # integers: 8 KiB stay in the first cache
_BYTES = 8


def tensors_of(graph_module: fx.GraphModule) -> dict[str, Tensor]:
    """Parameters and buffers, by name."""
    return {**dict(graph_module.named_parameters()), **dict(graph_module.named_buffers())}


@torch.no_grad()
def fingerprint(tensor: Tensor) -> Hashable:
    """A number that tells the bits of `tensor` from others, with its shape and type."""
    tensor = tensor.detach()
    kind = (tuple(tensor.shape), tensor.dtype, tensor.layout)
    if tensor.is_meta:
        return kind
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    values = _integers(tensor)
    for level in range(_BYTES):  # enough for more memory than there is
        if len(values) <= 1:
            break
        if len(values) % _ROW:
            values = torch.nn.functional.pad(values, (0, -len(values) % _ROW))
        values = (values.view(-1, _ROW) * _weights(level, tensor.device)).sum(1)
    return (*kind, *(int(value) for value in values))


def _integers(tensor: Tensor) -> Tensor:
    """The bits as integers of 64 bits, zeros behind them."""
    octets = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor.new_zeros(0)
    if len(octets) % _BYTES or octets.storage_offset() % _BYTES:
        octets = torch.nn.functional.pad(octets, (0, -len(octets) % _BYTES)).clone()
    return octets.view(torch.int64)


@cache
def _weights(level: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(level)
    return (torch.randint(-(2**62), 2**62, (_ROW,), generator=generator) | 1).to(device)


def is_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor infinity in `tensor`. A sum that is finite says so at once,
    in a sixth of the time."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return True
    tensor = tensor.detach()
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())
