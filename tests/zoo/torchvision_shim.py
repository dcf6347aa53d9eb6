"""Lets PyPI's torchvision, which is linked against CUDA, be imported beside a CPU torch.

It registers fake kernels for two operators of its own that its library, which does not load there,
would have declared. Declaring them first is enough: no network of the zoo calls them while it is
traced or measured. Import this before torchvision.
"""

from __future__ import annotations

import torch
from torch.library import Library

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _declare() -> Library:
    library = Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            library.define(schema)
    return library


_LIBRARY = _declare()  # the declarations last as long as this object
