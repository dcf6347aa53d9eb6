"""Converters of torch's operators for TVM's importer, which lacks these or gets them wrong."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx
from tvm import relax

Converter = Callable[[fx.Node, Any], Any]


def converters() -> dict[str, Converter]:
    """By the names that the importer gives to operators."""
    return {
        "amax.default": _reduction(relax.op.max),
        "amin.default": _reduction(relax.op.min),
        "grid_sampler_2d.default": _grid_sample,
        "index.Tensor": _index,
        "max.dim": _extremum(relax.op.max, largest=True),
        "min.dim": _extremum(relax.op.min, largest=False),
        "prod.dim_int": _reduction(relax.op.prod),
        "scatter_add.default": _scatter_add,
    }


def _reduction(reduce: Callable[..., Any]) -> Converter:
    def convert(node: fx.Node, importer: Any) -> Any:
        x, *rest = importer.retrieve_args(node)
        dims: Any = rest[0] if rest else node.kwargs.get("dim", [])
        keep = rest[1] if len(rest) > 1 else node.kwargs.get("keepdim", False)
        axes = [dims] if isinstance(dims, int) else list(dims)
        return importer.block_builder.emit(reduce(x, axes or None, keepdims=bool(keep)))

    return convert


def _extremum(reduce: Callable[..., Any], largest: bool) -> Converter:
    """Values along a dimension, and where they are; sorted only if somebody asks for the latter."""

    def convert(node: fx.Node, importer: Any) -> Any:
        x, axis, *rest = importer.retrieve_args(node)
        keep = bool(rest[0] if rest else node.kwargs.get("keepdim", False))
        emit = importer.block_builder.emit
        values = emit(reduce(x, [axis], keepdims=keep))
        if all(user.target is operator.getitem and user.args[1] == 0 for user in node.users):
            return (values, None)
        find = relax.op.argmax if largest else relax.op.argmin
        return (values, emit(find(x, axis, keepdims=keep)))

    return convert


def _grid_sample(node: fx.Node, importer: Any) -> Any:
    """TVM reads a grid as (N, 2, H, W), torch as (N, H, W, 2)."""
    x, grid, mode, padding, align = importer.retrieve_args(node)
    emit = importer.block_builder.emit
    return emit(
        relax.op.image.grid_sample(
            x,
            emit(relax.op.permute_dims(grid, [0, 3, 1, 2])),
            method=("bilinear", "nearest", "bicubic")[mode],
            padding_mode=("zeros", "border", "reflection")[padding],
            align_corners=bool(align),
        )
    )


def _index(node: fx.Node, importer: Any) -> Any:
    """Several index tensors broadcast together; what they give stands where they stood if they
    stood side by side, and else in front."""
    x, indices = importer.retrieve_args(node)
    emit = importer.block_builder.emit
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    given = [_from_the_start(emit, indices[axis], x.ty.shape[axis]) for axis in axes]
    if len(given) == 1:
        return emit(relax.op.take(x, given[0], axis=axes[0]))
    others = [axis for axis in range(len(x.ty.shape)) if axis not in axes]
    found = emit(relax.op.index_tensor(emit(relax.op.permute_dims(x, axes + others)), given))
    before = axes[0] if axes == list(range(axes[0], axes[-1] + 1)) else 0
    new = len(found.ty.shape) - len(others)
    order = [*range(new, new + before), *range(new), *range(new + before, new + len(others))]
    return emit(relax.op.permute_dims(found, order))


def _from_the_start(emit: Callable[..., Any], index: Any, extent: Any) -> Any:
    """Places that count from the end, which TVM would read before the beginning."""
    kind = str(index.ty.dtype)
    if kind == "bool":
        return index
    zero, size = relax.const(0, kind), relax.const(int(extent), kind)
    return emit(relax.op.where(relax.op.less(index, zero), relax.op.add(index, size), index))


def _scatter_add(node: fx.Node, importer: Any) -> Any:
    x, axis, index, source = importer.retrieve_args(node)
    return importer.block_builder.emit(
        relax.op.scatter_elements(x, index, source, axis, reduction="add")
    )
