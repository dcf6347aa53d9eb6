"""Second moments of a convolution's input patches and wanted outputs: all that a solver needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ORDINARY = (1e-15, 1e15)  # largest values whose sums of products float32 can hold
ROWS = 4_096  # patches that are multiplied at a time, in the data's own precision


@dataclass(frozen=True)
class Moments:
    """Centred second moments over images and output positions, float64.

    With u the input patch of one position (M*kh*kw values, channel-major) and y the wanted output
    there (N values): covariance E[u u'] - E[u]E[u]' (Mk, Mk), cross E[y u'] - E[y]E[u]' (N, Mk),
    powers E[y^2] - E[y]^2 (N,), and the two means.
    """

    covariance: Tensor
    cross: Tensor
    powers: Tensor
    patch_mean: Tensor
    output_mean: Tensor
    positions: int

    @property
    def finite(self) -> bool:
        """Whether there is neither NaN nor infinity in them."""
        sums = (self.covariance, self.cross, self.powers, self.patch_mean, self.output_mean)
        return all(bool(values.isfinite().all()) for values in sums)

    @property
    def power(self) -> float:
        """E|y - E[y]|^2, over all outputs."""
        return float(self.powers.sum())

    def error(self, kernel: Tensor) -> float:
        """E|y - (W u + b)|^2 / power for the best bias b and W = `kernel`, (N, M, kh, kw) or
        (N, Mk): 0 is exact, 1 is no better than the mean. 0 where there is no power to explain."""
        flat = kernel.reshape(len(self.cross), -1).double()
        explained = 2 * (flat * self.cross).sum() - ((flat @ self.covariance) * flat).sum()
        left = max(0.0, self.power - float(explained))
        return left / self.power if self.power > 0 else 0.0

    def bias(self, kernel: Tensor) -> Tensor:
        """The best bias (N,) for a kernel: E[y] - W E[u]."""
        return self.output_mean - kernel.reshape(len(self.cross), -1).double() @ self.patch_mean


class MomentSums:
    """Running sums for `Moments`, batch by batch.

    Products are taken in float32 (float64 data, and values beyond what float32 can square: in
    float64), a few thousand patches at a time and
    around the first patches' mean so that little is lost to cancellation, and added up in float64.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.totals: _Totals | None = None

    @property
    def positions(self) -> int:
        """Counted in so far."""
        counted = 0 if self.totals is None else self.totals.positions
        return counted + sum(len(patches) for patches, _ in self.pending)

    def add(self, inputs: Tensor, outputs: Tensor, at: Tensor | None = None) -> None:
        """Count in (B, M, H, W) inputs and the (B, N, H', W') outputs wanted for them; of the
        output positions, numbered row by row, only those in `at` if it is given."""
        wide = torch.promote_types(working_type(inputs), working_type(outputs))
        patches = extract_patches(inputs.to(wide), self.conv, at)
        wanted = outputs.to(wide).flatten(2)
        wanted = wanted if at is None else wanted.index_select(2, at)
        self.pending.append((patches, wanted.transpose(1, 2).reshape(len(patches), -1)))
        if sum(len(rows) for rows, _ in self.pending) >= ROWS:
            self._multiply()

    def moments(self) -> Moments:
        """The centred moments of everything counted in, which must be something."""
        return self._multiply().moments()

    def _multiply(self) -> _Totals:
        if self.pending:
            parts = zip(*self.pending, strict=True)
            patches, wanted = (part[0] if len(part) == 1 else torch.cat(part) for part in parts)
            self.pending.clear()
            self.totals = self.totals or _Totals.around(patches, wanted)
            self.totals.add(patches, wanted)
        assert self.totals is not None, "nothing was counted in"
        return self.totals


@dataclass
class _Totals:
    """Sums over patches u and outputs y less a shift near their means, in float64."""

    shift_u: Tensor
    shift_y: Tensor
    u: Tensor
    y: Tensor
    uu: Tensor  # on and above the block diagonal
    yu: Tensor
    yy: Tensor
    positions: int = 0

    @staticmethod
    def around(patches: Tensor, wanted: Tensor) -> _Totals:
        wide, out = patches.shape[1], wanted.shape[1]

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=patches.device)

        return _Totals(
            patches.mean(0),
            wanted.mean(0),
            zeros(wide),
            zeros(out),
            zeros(wide, wide),
            zeros(out, wide),
            zeros(out),
        )

    def add(self, patches: Tensor, wanted: Tensor) -> None:
        """Count in rows; `patches` are overwritten."""
        patches -= self.shift_u.to(patches.dtype)
        wanted = wanted - self.shift_y.to(
            wanted.dtype
        )  # it may be a view of what the network computed
        for start, stop in _panels(len(self.uu)):
            self.uu[start:stop, start:] += patches[:, start:stop].T @ patches[:, start:]
        self.yu += wanted.T @ patches
        self.yy += wanted.square().sum(0, dtype=torch.float64)
        self.u += patches.sum(0)  # centred; summed as float64 it would cost as much as the product
        self.y += wanted.sum(0, dtype=torch.float64)
        self.positions += len(patches)

    def moments(self) -> Moments:
        """Centred, and the covariance whole."""
        for start, stop in _panels(len(self.uu)):
            self.uu[stop:, start:stop] = self.uu[start:stop, stop:].T
        n = self.positions
        mean_u, mean_y = self.u / n, self.y / n
        return Moments(
            (self.uu / n).addr_(mean_u, mean_u, alpha=-1),
            (self.yu / n).addr_(mean_y, mean_u, alpha=-1),
            self.yy / n - mean_y.square(),
            mean_u + self.shift_u.double(),
            mean_y + self.shift_y.double(),
            n,
        )


def covariance_bytes(conv: nn.Conv2d) -> int:
    """Bytes of one (Mk, Mk) covariance in float64."""
    return 8 * (conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]) ** 2


def working_type(values: Tensor) -> torch.dtype:
    """What products of these values are summed in: float32, or float64 for float64 values and for
    those whose squares float32 cannot hold. Sums of squares need more than float16's digits and
    range."""
    least, most = ORDINARY
    low, high = map(float, values.aminmax()) if values.numel() else (0.0, 0.0)
    largest = max(-low, high)
    ordinary = largest == 0 or least < largest < most
    return torch.promote_types(values.dtype, torch.float32 if ordinary else torch.float64)


def _panels(size: int, number: int = 8) -> list[tuple[int, int]]:
    """Row ranges of a symmetric matrix: of each, only what is right of its start is multiplied."""
    width = -(-size // number)
    return [(start, min(start + width, size)) for start in range(0, size, width)]


def extract_patches(inputs: Tensor, conv: nn.Conv2d, at: Tensor | None = None) -> Tensor:
    """The patches that `conv` meets in (B, M, H, W): (B * positions, M*kh*kw), padding exact.

    `at` chooses output positions by number, row by row; all of them otherwise.
    """
    (top, left), (bottom, right) = _paddings(conv)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    if top or left or bottom or right:
        inputs = F.pad(inputs, (left, right, top, bottom), mode=mode)
    batch, channels, height, width = inputs.shape
    down, across = _offsets(conv, 0), _offsets(conv, 1)
    rows = torch.arange(0, height - down[-1], conv.stride[0])
    columns = torch.arange(0, width - across[-1], conv.stride[1])
    corners = (rows[:, None] * width + columns).flatten()
    corners = corners if at is None else corners[at.cpu()]
    taps = (torch.tensor(down)[:, None] * width + torch.tensor(across)).flatten()
    pixels = (corners[:, None] + taps).flatten().to(inputs.device)
    patches = inputs.flatten(2).index_select(2, pixels)
    patches = patches.reshape(batch, channels, len(corners), len(taps))
    return patches.transpose(1, 2).reshape(batch * len(corners), -1)


def _offsets(conv: nn.Conv2d, axis: int) -> list[int]:
    """Where a kernel's taps fall, from the first, along one axis."""
    return [tap * conv.dilation[axis] for tap in range(conv.kernel_size[axis])]


def _paddings(conv: nn.Conv2d) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels added (above, left) and (below, right); 'same' puts the odd one below and right."""
    if conv.padding == "valid":
        return (0, 0), (0, 0)
    if conv.padding == "same":
        total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        before = (total[0] // 2, total[1] // 2)
        return before, (total[0] - before[0], total[1] - before[1])
    assert not isinstance(conv.padding, str)
    sides = (int(conv.padding[0]), int(conv.padding[1]))
    return sides, sides
