"""What is known of a node while it is traced: its value for the example, and what decides it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sepify.capture.torchscript.values import Dependence
from sepify.graph.operators import operator_name

# attributes and methods of a tensor that no change of batch or image size alters
FACTS = {"dtype", "layout", "ndim", "requires_grad", "is_cuda", "is_sparse", "is_quantized"}
FACT_METHODS = {"dim", "ndimension", "is_floating_point", "is_complex", "element_size"}
_SHAPE_METHODS = {"size", "numel", "nelement", "stride"}
_SELECT_BY_CONTENT = {"nonzero", "masked_select", "unique", "argwhere", "unique_consecutive"}


@dataclass(frozen=True)
class Known:
    """What is known of a node: its value for the example, and what that value depends on."""

    value: Any
    content: Dependence
    extent: Dependence  # of a tensor's shape


def dependence(
    kind: str, target: Any, args: Any, used: list[Known], value: Any
) -> tuple[Dependence, Dependence]:
    """What a node's value, and its shape if it is a tensor, depend on."""
    if kind == "placeholder":
        return Dependence.DATA, Dependence.SHAPE
    content = max((known.content for known in used), default=Dependence.FIXED)
    shapes = [k.content if isinstance(k.value, (int, float)) else k.extent for k in used]
    extent = max(shapes, default=Dependence.FIXED)
    name = operator_name(target)
    if target is getattr:
        name = args[1]
    if name == "shape" or (kind == "call_method" and name in _SHAPE_METHODS):
        return used[0].extent, Dependence.FIXED
    if name == "device" or name in FACTS or name.startswith("is_"):
        return Dependence.FIXED, Dependence.FIXED
    masks = target is operator.getitem and _holds_mask(args[1])
    if content is Dependence.DATA and (name in _SELECT_BY_CONTENT or masks):
        extent = Dependence.DATA
    return content, extent


def _holds_mask(index: Any) -> bool:
    items = index if isinstance(index, tuple) else (index,)
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in items)
