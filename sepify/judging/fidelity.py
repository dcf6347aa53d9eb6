"""Fidelity: how nearly two networks answer the same, without labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log10

import torch
from torch import Tensor

from sepify.errors import InputError
from sepify.judging.statistics import Interval, wilson

Outputs = tuple[Tensor, ...]  # of one batch; every tensor batch first


@dataclass(frozen=True)
class Fidelity:
    """Agreement of a converted network with the original on `inputs` unlabelled inputs.

    `agreement`: share with the same largest output, with its Wilson interval; None for outputs
    that are not one row of class scores. `cosine`: mean over inputs of the cosine between the two
    outputs, each flattened. `sqnr`: 10 log10(sum y^2 / sum (y - y')^2) over all inputs, in dB;
    None where there is no finite value: outputs identical, or the original's all zero.
    `commonest`: before and after, the share of the inputs that get the commonest top-1 answer; None
    as `agreement`. `spread`: variance of the outputs over the inputs, after / before; None where
    the original's do not vary, or have not one shape throughout, and in reports before version 4.
    """

    inputs: int
    agreement: Interval | None
    cosine: float
    sqnr: float | None
    identical: bool
    commonest: tuple[float, ...] | None = None
    spread: float | None = None

    @property
    def relative_error(self) -> float | None:
        """sum (y - y')^2 / sum y^2; None where the original's outputs are all zero."""
        if self.identical:
            return 0.0
        return None if self.sqnr is None else 10 ** (-self.sqnr / 10)


def alike(given: Fidelity) -> Interval:
    """Return the one figure for likeness to the original.

    That is top-1 agreement where there are classes, otherwise the mean cosine, which has no
    interval here.
    """
    return given.agreement or Interval(given.cosine, given.cosine, given.cosine)


def fidelity(batches: Iterable[tuple[Outputs, Outputs]]) -> Fidelity:
    """Compare (before, after) outputs, batch by batch; only sums are kept.

    Raises InputError where there are none or their shapes differ.
    """
    inputs = same = 0
    cosine = signal = noise = 0.0
    classifies = True
    spreads = _Spread(), _Spread()
    answers: tuple[list[Tensor], list[Tensor]] = [], []
    for before, after in batches:
        _require_same_shapes(before, after)
        n = before[0].shape[0]
        inputs += n
        y, z = _flat(before, n), _flat(after, n)
        signal += float((y**2).sum())
        noise += float(((y - z) ** 2).sum())
        cosine += float(_cosines(y, z).sum())
        spreads[0].add(y)
        spreads[1].add(z)
        classifies &= len(before) == 1 and before[0].dim() == 2 and before[0].shape[1] > 1
        if classifies:
            old, new = before[0].argmax(1), after[0].argmax(1)
            same += int((old == new).sum())
            answers[0].append(old)
            answers[1].append(new)
    if inputs == 0:
        raise InputError("the unlabelled data is empty: fidelity needs at least one input")
    finite = signal > 0 and noise > 0
    return Fidelity(
        inputs=inputs,
        agreement=wilson(same, inputs) if classifies else None,
        cosine=cosine / inputs,
        sqnr=10 * log10(signal / noise) if finite else None,
        identical=noise == 0,
        commonest=tuple(map(_commonest, answers)) if classifies else None,
        spread=spreads[1].over(spreads[0]),
    )


class _Spread:
    """Variance of rows over the inputs, summed over their elements."""

    def __init__(self) -> None:
        self.count, self.squares = 0, 0.0
        self.first = self.total = torch.zeros(0, dtype=torch.float64)
        self.alike = True  # rows of one length, as long as they are

    def add(self, rows: Tensor) -> None:
        if self.count == 0:
            self.first, self.total = rows[0].clone(), torch.zeros_like(rows[0])
        self.alike &= rows.shape[1] == len(self.first)
        self.count += len(rows)
        if self.alike:
            moved = rows - self.first  # a variance that is small beside the mean is not lost
            self.total += moved.sum(0)
            self.squares += float(moved.square().sum())

    def variance(self) -> float:
        mean = self.total / self.count
        return max(0.0, self.squares / self.count - float(mean.square().sum()))

    def over(self, other: _Spread) -> float | None:
        """Return this variance over another's, None where that is zero."""
        if not (self.alike and other.alike) or self.count < 2 or other.variance() == 0:
            return None
        return self.variance() / other.variance()


def _commonest(answers: list[Tensor]) -> float:
    """Return the share of inputs that get the most common answer."""
    given = torch.cat(answers)
    return float(given.unique(return_counts=True)[1].max()) / len(given)


def _cosines(y: Tensor, z: Tensor) -> Tensor:
    """Cosine of each pair of rows; 1 for two zero rows, 0 for one."""
    norms = y.norm(dim=1) * z.norm(dim=1)
    both_zero = (y.norm(dim=1) == 0) & (z.norm(dim=1) == 0)
    cosines = (y * z).sum(1) / norms.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(both_zero, torch.ones_like(cosines), cosines.clamp(-1, 1))


def _flat(outputs: Outputs, n: int) -> Tensor:
    return torch.cat([output.detach().reshape(n, -1).double().cpu() for output in outputs], 1)


def _require_same_shapes(before: Outputs, after: Outputs) -> None:
    shapes = [tuple(output.shape) for output in before]
    others = [tuple(output.shape) for output in after]
    if shapes != others:
        raise InputError(
            f"the networks' outputs differ in shape: {_list(shapes)} before, {_list(others)} after"
        )
    if any(not shape or shape[0] != shapes[0][0] for shape in shapes):
        raise InputError(
            f"fidelity needs outputs with the batch as first dimension, not {_list(shapes)}"
        )


def _list(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))
