"""A device that is not the CPU, on a machine that has none: tensors that say that they are on it,
keep their values in the CPU's memory, and refuse, as a GPU does, to be mixed with tensors that
are elsewhere. Registered for the whole process, so run what uses it in a process of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Elsewhere(Tensor):
    """A tensor on device `second:0` whose values are in `kept`."""

    kept: Tensor

    @staticmethod
    def __new__(cls, kept: Tensor, device: torch.device) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls,
            kept.shape,
            strides=kept.stride(),
            storage_offset=kept.storage_offset(),
            dtype=kept.dtype,
            device=device,
        )
        made.kept = kept
        return made

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _on_device(op, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sends what makes new tensors there to where they are kept."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _on_device(op, args, kwargs or {})


def begin() -> None:
    """Give this process the device, until it ends."""
    _setup_privateuseone_for_python_backend(NAME)
    _Factories().__enter__()
    # what torch calls below dispatch, as when a tensor is indexed with a list
    torch.library.impl("aten::empty_strided", "privateuseone", _empty_strided)
    torch.library.impl("aten::_copy_from", "privateuseone", _copy_from)


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return Elsewhere(torch.empty_strided(size, stride, dtype=dtype), torch.device(NAME, 0))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    values, into = (x.kept if isinstance(x, Elsewhere) else x for x in (source, target))
    into.copy_(values)
    return target


def _on_device(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    homes = {x.device for x in tensors if isinstance(x, Elsewhere)}
    asked = kwargs.get("device")
    asked = None if asked is None else _numbered(torch.device(asked))
    if not homes and (asked is None or asked.type != NAME):
        return op(*args, **kwargs)
    if op not in MOVES:
        homes |= {x.device for x in tensors if x.dim() > 0}
        if len(homes) > 1:
            raise RuntimeError(f"{op}: tensors on {', '.join(sorted(map(str, homes)))}")
    home = asked or tensors[0].device
    for x in tensors:
        assert not isinstance(x, Elsewhere) or x.is_contiguous() == x.kept.is_contiguous()
    inner = dict(kwargs)
    if asked is not None:
        inner["device"] = torch.device("cpu")
    pairs = [(x, x.kept) for x in tensors if isinstance(x, Elsewhere)]
    args, inner = tree_map(lambda x: x.kept if isinstance(x, Elsewhere) else x, (args, inner))
    result = op(*args, **inner)

    def back(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        for outer, kept in pairs:
            if value is kept:  # in place
                return outer
        return value if home.type == "cpu" else Elsewhere(value, home)

    return tree_map(back, result)


def _numbered(device: torch.device) -> torch.device:
    if device.type == NAME and device.index is None:
        return torch.device(NAME, 0)
    return device
