"""One layer quantised: its weights solved anew behind its quantised input, rounded, bias last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sepify.factorize.statistics import extract_patches
from sepify.graph.grids import RoundedWeights, WeightBits
from sepify.quantising.recipe import Recipe
from sepify.quantising.rounding import DAMPING, compensated, nearest

Linear = nn.Conv2d | nn.Linear

CHECKED = 8  # of every so many images one is kept to choose by
POSITIONS = 64  # of an image, at most
MOST_ROWS = 65_536
WORK = 4e10  # multiplications for a layer's covariance, about
AT_LEAST = 4  # rows for each column of the weights
TO_SOLVE = 32  # rows for each column, from which on weights are solved anew
PRIOR = 1e-4  # of the covariance's mean diagonal: how much the given weights are believed


@dataclass(frozen=True)
class Fitted:
    """A layer's integers, and the relative squared error of its output on images that it was not
    fitted to: 1 is no better than the mean."""

    weights: RoundedWeights
    error: float


@dataclass
class _Sums:
    """Moments of rows u (G, n, K) and wanted y (G, n, R), around the first rows' means."""

    shift_u: Tensor
    shift_y: Tensor
    count: int = 0
    sums: list[Tensor] = field(default_factory=list)

    def add(self, u: Tensor, y: Tensor) -> None:
        u, y = u - self.shift_u, y - self.shift_y
        parts = [u.sum(1), y.sum(1), u.mT @ u, y.mT @ u]
        wide = [part.double() for part in parts]
        self.sums = wide if not self.sums else [a + b for a, b in zip(self.sums, wide, strict=True)]
        self.count += u.shape[1]

    def centred(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Covariance (G, K, K), cross (G, R, K), means (G, K) and (G, R), float64."""
        u, y, uu, yu = (part / self.count for part in self.sums)
        covariance = uu - u[:, :, None] * u[:, None]
        cross = yu - y[:, :, None] * u[:, None]
        return covariance, cross, u + self.shift_u[:, 0], y + self.shift_y[:, 0]


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer with the quantised maps that it reads and the maps that it ought to give, a batch
    each, in the values' own units; `bits` of its weights."""

    layer: Linear
    inputs: Sequence[Tensor]
    wanted: Sequence[Tensor]
    bits: WeightBits
    needs_bias: bool

    @property
    def groups(self) -> int:
        """The number of groups of channels."""
        return self.layer.groups if isinstance(self.layer, nn.Conv2d) else 1

    def columns(self, scales: Tensor) -> Tensor:
        """The scales (M,) of the input along the columns of the weights, (G, K)."""
        taps = self.layer.weight[0, 0].numel()
        return scales.view(self.groups, -1).repeat_interleave(taps, 1)


def fit(problem: Problem, scales: Tensor, recipe: Recipe) -> Fitted:
    """Integers for the weights behind inputs of these scales (M,).

    With u the input in whole steps, y what is wanted, C and Y their covariance and cross-covariance
    and W the given weights in steps, P = (Y + d W)(C + d)^-1 comes as close as float weights get;
    P is rounded with regard to C, and the bias makes the means agree.
    """
    fitting, checking = _rows(problem)
    columns = problem.columns(scales)[:, None].double()
    sums = _sums(fitting)
    covariance, cross, mean_u, mean_y = sums.centred()
    covariance = covariance / columns / columns.mT
    cross, mean_u = cross / columns, mean_u / columns[:, 0]
    given = problem.layer.weight.detach().double()
    given = given.reshape(problem.groups, -1, columns.shape[2]) * columns
    start = given
    if recipe.solve and sums.count >= TO_SOLVE * columns.shape[2]:
        start = _solved(given, covariance, cross)
    if recipe.compensate:
        short = max(1.0, TO_SOLVE * columns.shape[2] / sums.count)
        damping = min(1.0, DAMPING * short**2)
        codes, rows = compensated(start, covariance, problem.bits, damping)
    else:
        codes, rows = nearest(start, problem.bits)
    bias = None
    if problem.needs_bias:
        rounded = codes * rows
        bias = (mean_y - (rounded @ mean_u[..., None])[..., 0]).flatten()
        if not recipe.compensate and not recipe.solve:
            own = problem.layer.bias
            bias = torch.zeros_like(bias) if own is None else own.detach().double()
    weights = RoundedWeights(
        codes.reshape(problem.layer.weight.shape).to(torch.int8),
        rows.flatten().float(),
        None if bias is None else bias.float(),
        problem.bits,
    )
    effective = (codes * rows / columns).float()
    return Fitted(weights, _error(checking, effective, bias))


def _solved(given: Tensor, covariance: Tensor, cross: Tensor) -> Tensor:
    size = covariance.shape[-1]
    damping = PRIOR * covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(1e-30)
    damped = covariance + damping * torch.eye(size).to(covariance)
    solved: Tensor = torch.linalg.solve(damped, (cross + damping * given).mT)
    return solved.mT


def _error(checking: Sequence[tuple[Tensor, Tensor]], kernel: Tensor, bias: Tensor | None) -> float:
    """The relative squared error on rows; without a bias the means are left out of it."""
    off = torch.cat([y - u @ kernel.mT for u, y in checking], 1)
    wanted = torch.cat([y for _, y in checking], 1)
    if bias is None:
        off = off - off.mean(1, keepdim=True)
    else:
        off = off - bias.float().view(off.shape[0], 1, -1)
    power = float((wanted - wanted.mean(1, keepdim=True)).square().sum(dtype=torch.float64))
    return float(off.square().sum(dtype=torch.float64)) / power if power > 0 else 0.0


def _sums(rows: Sequence[tuple[Tensor, Tensor]]) -> _Sums:
    first_u, first_y = rows[0]
    sums = _Sums(first_u.mean(1, keepdim=True), first_y.mean(1, keepdim=True))
    for u, y in rows:
        sums.add(u, y)
    return sums


Pairs = list[tuple[Tensor, Tensor]]


def _rows(problem: Problem) -> tuple[Pairs, Pairs]:
    """Rows (G, n, K) and (G, n, R) of each batch at random positions: to fit to, and of other
    images, to choose by. Where a batch has too few images, they serve for both."""
    fitting, checking = list[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()
    images = sum(len(part) for part in problem.inputs)
    columns = problem.layer.weight[0].numel()
    most = max(AT_LEAST * columns, min(MOST_ROWS, int(WORK / (columns**2 * problem.groups))))
    each = max(1, min(POSITIONS, most // images))
    for number, (given, wanted) in enumerate(zip(problem.inputs, problem.wanted, strict=True)):
        kept = len(given) - len(given) // CHECKED
        fitting.append(_cut(problem, given[:kept], wanted[:kept], each, number))
        if kept < len(given):
            checking.append(_cut(problem, given[kept:], wanted[kept:], each, number))
    return fitting, checking or fitting


def _cut(problem: Problem, x: Tensor, y: Tensor, each: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    layer, groups = problem.layer, problem.groups
    if isinstance(layer, nn.Linear):
        u, v = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        if len(u) > each * len(x):
            at = torch.randperm(len(u), generator=generator)[: each * len(x)].to(u.device)
            u, v = u[at], v[at]
        return u[None].float(), v[None].float()
    positions = y[0, 0].numel()
    at = torch.randperm(positions, generator=generator)[:each].to(x.device)
    u = extract_patches(x, layer, at).view(-1, groups, layer.weight[0].numel())
    v = y.flatten(2)[:, :, at].transpose(1, 2).reshape(len(u), groups, -1)
    return u.transpose(0, 1).float(), v.transpose(0, 1).float()
