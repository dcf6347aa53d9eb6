"""Second moments of a convolution's input patches and wanted outputs: all that a solver needs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Moments:
    """Centred second moments over all images and output positions, float64.

    With u the input patch of one position (M*kh*kw values, channel-major) and y the wanted output
    there (N values): covariance E[u u'] - E[u]E[u]' (Mk, Mk), cross E[y u'] - E[y]E[u]' (N, Mk),
    power E|y|^2 - |E[y]|^2, and the two means.
    """

    covariance: Tensor
    cross: Tensor
    power: float
    patch_mean: Tensor
    output_mean: Tensor
    positions: int

    def error(self, kernel: Tensor) -> float:
        """E|y - (W u + b)|^2 / power for the best bias b and W = `kernel`, (N, M, kh, kw) or
        (N, Mk): 0 is exact, 1 is no better than the mean. 0 where there is no power to explain."""
        flat = kernel.reshape(len(self.cross), -1).double()
        residual = (
            self.power - 2 * (flat * self.cross).sum() + ((flat @ self.covariance) * flat).sum()
        )
        return max(0.0, float(residual)) / self.power if self.power > 0 else 0.0

    def bias(self, kernel: Tensor) -> Tensor:
        """The best bias (N,) for a kernel: E[y] - W E[u]."""
        return self.output_mean - kernel.reshape(len(self.cross), -1).double() @ self.patch_mean


class MomentSums:
    """Running sums for `Moments`, batch by batch.

    Products are taken in the data's own precision, around the first batch's mean so that little
    is lost to cancellation, and added up in float64.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        self.positions = 0
        self.shift_u: Tensor | None = None
        self.shift_y: Tensor | None = None

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Count in (B, M, H, W) inputs and the (B, N, H', W') outputs wanted for them."""
        patches = extract_patches(inputs, self.conv)
        wanted = outputs.permute(0, 2, 3, 1).reshape(len(patches), -1)
        if self.shift_u is None or self.shift_y is None:
            self.shift_u, self.shift_y = patches.mean(0), wanted.mean(0)
            wide, out = patches.shape[1], wanted.shape[1]
            zeros = patches.new_zeros
            self.sum_u = zeros(wide, dtype=torch.float64)
            self.sum_y = zeros(out, dtype=torch.float64)
            self.sum_uu = zeros(wide, wide, dtype=torch.float64)
            self.sum_yu = zeros(out, wide, dtype=torch.float64)
            self.sum_yy = 0.0
        patches = patches - self.shift_u
        wanted = wanted - self.shift_y
        _add_gram(self.sum_uu, patches)
        self.sum_yu += wanted.T @ patches
        self.sum_yy += float(wanted.square().sum(dtype=torch.float64))
        self.sum_u += patches.sum(0, dtype=torch.float64)
        self.sum_y += wanted.sum(0, dtype=torch.float64)
        self.positions += len(patches)

    def moments(self) -> Moments:
        """The centred moments of everything counted in."""
        assert self.shift_u is not None, "no batch was added"
        assert self.shift_y is not None
        n = self.positions
        mean_u, mean_y = self.sum_u / n, self.sum_y / n
        return Moments(
            self.sum_uu / n - mean_u[:, None] * mean_u,
            self.sum_yu / n - mean_y[:, None] * mean_u,
            self.sum_yy / n - float(mean_y.square().sum()),
            mean_u + self.shift_u.double(),
            mean_y + self.shift_y.double(),
            n,
        )


def _add_gram(total: Tensor, rows: Tensor, panels: int = 4) -> None:
    """total += rows' rows; it is symmetric, so of 16 blocks only the 10 on and above the diagonal
    are multiplied."""
    width = -(-len(total) // panels)
    for start in range(0, len(total), width):
        panel = slice(start, start + width)
        block = rows[:, panel].T @ rows[:, start:]
        total[panel, start:] += block
        total[start + width :, panel] += block[:, width:].T


def extract_patches(inputs: Tensor, conv: nn.Conv2d) -> Tensor:
    """The patches that `conv` meets in (B, M, H, W): (B * positions, M*kh*kw), padding exact."""
    top_left, bottom_right = _paddings(conv)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    pad = (top_left[1], bottom_right[1], top_left[0], bottom_right[0])
    if any(pad):
        inputs = F.pad(inputs, pad, mode=mode)
    columns = F.unfold(inputs, conv.kernel_size, conv.dilation, stride=conv.stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


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
