"""Weights rounded so that the error of one makes up for that of the others."""

from __future__ import annotations

import torch
from torch import Tensor

from sepify.graph.grids import LARGEST_WEIGHT, WeightBits

DAMPING = 1e-4  # of the covariance's mean diagonal, where it is of many rows
SWEEPS = 6
CLIPPINGS: dict[WeightBits, tuple[float, ...]] = {
    8: tuple(1 - 0.03 * step for step in range(6)),
    4: tuple(1 - 0.05 * step for step in range(13)),
}
BLOCK = 128  # columns that are rounded before the rest hears of their errors


def nearest(weights: Tensor, bits: WeightBits) -> tuple[Tensor, Tensor]:
    """Codes and scales (G, R, 1) of weights (G, R, K) in rows, each rounded by itself."""
    largest = LARGEST_WEIGHT[bits]
    scales = _reach(weights) / largest
    return (weights / scales).round().clamp(-largest, largest), scales


def compensated(
    weights: Tensor, covariance: Tensor, bits: WeightBits, damping: float = DAMPING
) -> tuple[Tensor, Tensor]:
    """Codes (G, R, K) and scales (G, R, 1) of weights (G, R, K), so that the rows' errors e have a
    small e' H e for the covariance H (G, K, K) of what they are multiplied with, all float64.

    Of a few clippings of each row the one of least error; columns are rounded one after the other,
    heaviest first, and each one's error is made up for by those to come (GPTQ: Frantar et al. 2022,
    equations 2 and 3); then cyclic coordinate descent on the exact quadratic. `damping`, a share of
    the mean diagonal, is added to the diagonal: the fewer rows H is of, the less it is to be
    believed.
    """
    largest = LARGEST_WEIGHT[bits]
    problem = _Problem(covariance, largest, damping)
    factors = CLIPPINGS[bits]
    reach = _reach(weights) / largest
    rows = weights.shape[1]
    tried = torch.cat([reach * factor for factor in factors], 1)
    repeated = weights.repeat(1, len(factors), 1)
    codes = problem.descend(repeated, problem.in_turn(repeated, tried), tried, 1)
    errors = problem.errors(repeated, codes * tried).view(len(weights), len(factors), rows)
    chosen = errors.argmin(1)
    scales = tried.view(len(weights), len(factors), rows).gather(1, chosen[:, None])[:, 0, :, None]
    codes = problem.in_turn(weights, scales)
    return problem.descend(weights, codes, scales, SWEEPS), scales


class _Problem:
    """Rounding rows of K integers against covariances (G, K, K)."""

    def __init__(self, covariance: Tensor, largest: int, damping: float) -> None:
        size = covariance.shape[-1]
        mean = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
        self.largest = largest
        even = mean[:, None, None] * torch.eye(size).to(covariance)
        self.covariance = covariance + damping * even
        diagonal = self.covariance.diagonal(dim1=1, dim2=2)
        self.diagonal = diagonal
        self.order = (diagonal / mean[:, None]).mean(0).argsort(descending=True)
        self.back = self.order.argsort()
        ordered = self.covariance[:, self.order][:, :, self.order]
        self.upper = torch.linalg.cholesky(torch.linalg.inv(ordered), upper=True)

    def in_turn(self, weights: Tensor, scales: Tensor) -> Tensor:
        """Each column rounded with the errors of those before it made up for."""
        left = weights[:, :, self.order].clone()
        codes = torch.empty_like(left)
        size, flat = left.shape[2], scales[..., 0]
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            errors = torch.empty_like(left[:, :, start:stop])
            for i in range(start, stop):
                code = (left[:, :, i] / flat).round_().clamp_(-self.largest, self.largest)
                codes[:, :, i] = code
                error = (left[:, :, i] - code * flat) / self.upper[:, i, i, None]
                left[:, :, i + 1 : stop] -= error[..., None] * self.upper[:, None, i, i + 1 : stop]
                errors[:, :, i - start] = error
            left[:, :, stop:] -= errors @ self.upper[:, start:stop, stop:]
        return codes[:, :, self.back]

    def descend(self, weights: Tensor, codes: Tensor, scales: Tensor, sweeps: int) -> Tensor:
        """Each code in turn set to its best value, the others fixed; so many times."""
        codes, flat = codes.clone(), scales[..., 0]
        slope = (weights - codes * scales) @ self.covariance
        for _ in range(sweeps):
            moved = False
            for i in range(codes.shape[2]):
                best = codes[:, :, i] + slope[:, :, i] / self.diagonal[:, i, None] / flat
                best = best.round_().clamp_(-self.largest, self.largest)
                step = (best - codes[:, :, i]) * flat
                if bool(step.any()):
                    slope -= step[..., None] * self.covariance[:, None, i]
                    codes[:, :, i] = best
                    moved = True
            if not moved:
                break
        return codes

    def errors(self, weights: Tensor, rounded: Tensor) -> Tensor:
        """e' H e of each row, (G, R)."""
        off = weights - rounded
        return ((off @ self.covariance) * off).sum(2)


def _reach(weights: Tensor) -> Tensor:
    """The largest magnitude of each row, (G, R, 1); 1 for a row of zeros."""
    reach = weights.abs().amax(2, keepdim=True)
    return torch.where(reach > 0, reach, torch.ones_like(reach))
