"""Whether two outputs are the same, and if not, how they differ, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}  # relative to the largest value
_COARSE = 2e-2  # half precision


def difference(expected: Any, actual: Any, exact: bool) -> str | None:
    """None if every tensor of `actual` equals that of `expected` (bit for bit if `exact`, NaN equal
    to NaN); otherwise the first difference. Both may be nested in lists, tuples and dicts."""
    wanted, found = flat(expected), flat(actual)
    if len(wanted) != len(found):
        return f"{len(found)} outputs instead of {len(wanted)}"
    for index, (want, got) in enumerate(zip(wanted, found, strict=True)):
        told = _differs(want, got, exact)
        if told is not None:
            return told if len(wanted) == 1 else f"output {index}: {told}"
    return None


def flat(value: Any) -> list[Any]:
    """Leaves and keys in order. Lists, tuples and named tuples are not told apart, nor dicts and
    dataclasses: TorchScript returns plain ones."""
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in flat(item)]
    if isinstance(value, Mapping):
        return [leaf for key in value for leaf in (key, *flat(value[key]))]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return flat(fields)
    return [value]


def _differs(want: Any, got: Any, exact: bool) -> str | None:
    if not isinstance(want, Tensor) or not isinstance(got, Tensor):
        return None if want == got else f"{got!r} instead of {want!r}"
    if want.shape != got.shape:
        return f"shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    if want.dtype != got.dtype:
        return f"dtype {got.dtype} instead of {want.dtype}"
    if torch.equal(want, got):  # NaN is never equal: what follows sees to it
        return None
    tolerance = 0.0 if exact else _TOLERANCE.get(want.dtype, _COARSE)
    want, got = _real(want), _real(got)
    finite = want.isfinite()
    if not torch.equal(finite, got.isfinite()):
        return "NaN or infinity in other places"
    if not bool(finite.any()):
        return None
    error = float((want - got)[finite].abs().max())
    scale = float(want[finite].abs().max())
    return None if error <= tolerance * scale else f"differs by up to {error:.3g} of {scale:.3g}"


def _real(tensor: Tensor) -> Tensor:
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.detach().to(torch.float64)
