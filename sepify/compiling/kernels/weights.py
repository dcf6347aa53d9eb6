"""Weights in the order in which the kernels read them (numpy in, numpy out, of the same type)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepify.compiling.kernels.cook_toom import cook_toom

Array = NDArray[Any]


def pack_bias(bias: Array, lanes: int) -> Array:
    """`(O,)` -> `(O/v, v)`."""
    return _fill_lanes(bias, 0, lanes).reshape(-1, lanes)


def pack_dense(weight: Array, lanes: int, *, blocked: bool = True) -> Array:
    """`(O, C, kh, kw)` -> `(O/v, K, v)`, K over (block, ky, kx, lane) or (channel, ky, kx)."""
    weight = _fill_lanes(weight, 0, lanes)
    if not blocked:
        return _contiguous(weight.reshape(-1, lanes, weight[0].size).transpose(0, 2, 1))
    weight = _fill_lanes(weight, 1, lanes)
    outputs, channels, height, width = weight.shape
    split = weight.reshape(outputs // lanes, lanes, channels // lanes, lanes, height, width)
    return _contiguous(split.transpose(0, 2, 4, 5, 3, 1).reshape(outputs // lanes, -1, lanes))


def pack_winograd(weight: Array, lanes: int, m: int) -> Array:
    """`(O, C, 3, 3)` -> `(O/v, K, v)`, transformed for tiles of m x m outputs, K over (point of the
    tile, channel)."""
    g = cook_toom(m).filter
    points = g @ weight.astype(np.float64) @ g.T
    by_point = points.reshape(*weight.shape[:2], -1).transpose(0, 2, 1)
    filled = _fill_lanes(_fill_lanes(by_point, 2, lanes), 0, lanes)
    split = filled.reshape(filled.shape[0] // lanes, lanes, -1)
    return _contiguous(split.transpose(0, 2, 1).astype(weight.dtype))


def pack_depthwise(weight: Array, rank: int, lanes: int) -> Array:
    """`(C*rank, 1, kh, kw)` -> `(rank, C/v, kh*kw, v)`: torch keeps the terms of a channel
    together, the kernels keep the channels of a term together."""
    terms = weight.reshape(weight.shape[0] // rank, rank, -1).transpose(1, 0, 2)
    terms = _fill_lanes(terms, 1, lanes).reshape(rank, -1, lanes, terms.shape[2])
    return _contiguous(terms.transpose(0, 1, 3, 2))


def pack_depthwise_bias(bias: Array, rank: int, lanes: int) -> Array:
    """`(C*rank,)` -> `(rank, C/v, v)`."""
    return _contiguous(pack_depthwise(bias[:, None, None, None], rank, lanes)[:, :, 0])


def pack_terms(weight: Array, rank: int, lanes: int) -> Array:
    """A pointwise weight `(O, C*rank, 1, 1)` after such a depthwise part -> `(O/v, rank*C, v)`."""
    outputs = weight.shape[0]
    terms = weight.reshape(outputs, -1, rank).transpose(0, 2, 1)
    terms = _fill_lanes(terms, 2, lanes).reshape(outputs, -1, 1, 1)
    return pack_dense(terms, lanes)


def pack_term_outputs(weight: Array, bias: Array, rank: int, lanes: int) -> list[Array]:
    """A pointwise weight `(O*rank, C, 1, 1)` and bias, before a depthwise part that sums the terms
    of a channel -> `(rank*O/v, C, v)` and `(rank*O/v, v)`, the channels of a term together."""
    packed = []
    for array in (weight, bias):
        terms = array.reshape(-1, rank, *array.shape[1:]).swapaxes(0, 1)
        terms = _fill_lanes(terms, 1, lanes)
        packed.append(terms.reshape(-1, *array.shape[1:]))
    return [pack_dense(packed[0], lanes), pack_bias(packed[1], lanes)]


def pack_grouped(weight: Array, lanes: int) -> Array:
    """`(O, C/groups, kh, kw)` -> `(O/v, C/groups, kh*kw, v)`."""
    weight = _fill_lanes(weight, 0, lanes)
    split = weight.reshape(-1, lanes, weight.shape[1], weight[0, 0].size)
    return _contiguous(split.transpose(0, 2, 3, 1))


def _fill_lanes(array: NDArray[Any], axis: int, lanes: int) -> NDArray[Any]:
    """`array` with `axis` padded with zeros to whole vectors."""
    missing = -array.shape[axis] % lanes
    widths = [(0, missing if index == axis else 0) for index in range(array.ndim)]
    return np.pad(array, widths) if missing else array


def _contiguous(array: NDArray[Any]) -> Array:
    return np.ascontiguousarray(array)
