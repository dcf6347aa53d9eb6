"""aten::to in each of its overloads -> the one call that Tensor.to of Python takes.

A trace writes the device of the example input and the layout into every conversion; where the
tensor is there already they say nothing, and without them the graph can move to another device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sepify.capture.torchscript.values import concrete

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def to_arguments(named: Mapping[str, Any]) -> Arguments:
    """Positional and keyword arguments of Tensor.to, from those of aten::to by name. The tensor
    is the first, and the only one if they ask for nothing that it is not already.

    Raises ValueError where Python has no such conversion: to another layout, to pinned memory.
    """
    tensor = concrete(named["self"])
    layout = named.get("layout")
    if layout not in (None, tensor.layout):
        raise ValueError(f"it converts to the layout {layout}, which Tensor.to cannot")
    if named.get("pin_memory"):
        raise ValueError("it asks for pinned memory, which a graph cannot hold")
    device, dtype = named.get("device"), named.get("dtype")
    target = [named["other"]] if "other" in named else []
    if device is not None and not (isinstance(device, torch.device) and _is_on(tensor, device)):
        target.append(device)
    if dtype is not None:
        target.append(dtype)
    options = {
        name: named[name]
        for name in ("non_blocking", "copy", "memory_format")
        if named.get(name) not in (None, False, torch.preserve_format)
    }
    if not target:
        options.pop("non_blocking", None)
    return (named["self"], *target), options


def _is_on(tensor: Tensor, device: torch.device) -> bool:
    """Whether moving the tensor to a constant device leaves it where it is."""
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)
