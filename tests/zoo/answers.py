"""The tensors that a network answers with, and how far apart two answers are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def tensors(answer: Any) -> list[Tensor]:
    """The tensors of `answer` in order, whatever it is nested in."""
    if isinstance(answer, Tensor):
        return [answer]
    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        answer = [getattr(answer, field.name) for field in dataclasses.fields(answer)]
    if isinstance(answer, (list, tuple)):
        return [tensor for item in answer for tensor in tensors(item)]
    return []


def equal(wanted: Any, given: Any) -> bool:
    """Whether both hold the same bits (NaN equal to NaN)."""
    pairs = list(zip(tensors(wanted), tensors(given), strict=True))
    return bool(pairs) and all(
        old.dtype == new.dtype and torch.equal(old.nan_to_num(), new.nan_to_num())
        for old, new in pairs
    )


def distance(wanted: Any, given: Any) -> float:
    """Largest absolute difference of any tensor over its largest absolute value; infinite where
    the number of tensors, a shape or the places of NaN and infinity differ."""
    old, new = tensors(wanted), tensors(given)
    if len(old) != len(new) or not old:
        return float("inf")
    return max(_apart(a, b) for a, b in zip(old, new, strict=True))


def _apart(wanted: Tensor, given: Tensor) -> float:
    if wanted.shape != given.shape:
        return float("inf")
    wanted, given = wanted.double(), given.double()
    finite = wanted.isfinite()
    if not torch.equal(finite, given.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    scale = wanted[finite].abs().max().clamp_min(1e-12)
    return float((wanted - given)[finite].abs().max() / scale)
