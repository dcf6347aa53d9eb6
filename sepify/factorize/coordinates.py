"""Coordinates for gradient steps on factors, in which all directions weigh about alike.

Neighbouring pixels, and the terms of one channel, are much alike: some directions of the weights
move the output a thousand times as much as others, and plain gradient steps hardly get anywhere
along the latter. With C = E[z z'] of what weights w meet and w = v C^(-1/2), a step on v moves the
output as much in every direction (LeCun et al. 1998, "Efficient BackProp", section 4.3, on
uncorrelated inputs; the input side of K-FAC, Martens and Grosse 2015).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sepify.factorize.factors import Factors, pointwise_input
from sepify.factorize.statistics import extract_patches, working_type

DAMPING = 1e-3  # of the mean variance: directions that carry next to nothing are left alone
WIDEST = 2_048  # second moments beyond it are taken for diagonal: their roots would take minutes
TINY = 1e-12
ROWS = 8_192  # positions that second moments are taken from, at least where there are as many


@dataclass(frozen=True)
class Coordinates:
    """One convolution's factors as trainable tensors of root mean square one, and the way back."""

    given: Factors
    parameters: tuple[Tensor, ...]  # for depthwise (G, n, k), pointwise (1, n, m), bias
    roots: tuple[Tensor, ...]  # C^(-1/2), which they are multiplied by; or its diagonal

    def factors(self) -> Factors:
        """The factors that the parameters stand for, differentiable in them."""
        given = self.given
        assert given.bias is not None
        depthwise, pointwise, bias = (
            _times(value, root).to(given.pointwise.dtype)
            for value, root in zip(self.parameters, self.roots, strict=True)
        )
        return replace(
            given,
            depthwise=depthwise.reshape(given.depthwise.shape),
            pointwise=pointwise.reshape(given.pointwise.shape),
            bias=bias.reshape(given.bias.shape),
        )


@torch.no_grad()
def whiten(factors: Factors, conv: nn.Conv2d, inputs: Tensor) -> Coordinates:
    """Coordinates for `factors` with a bias, which stand in for `conv` on (B, M, H, W) `inputs`."""
    assert factors.bias is not None, "solved factors have a bias"
    wide = torch.promote_types(inputs.dtype, torch.float32)
    met = pointwise_input(factors, conv, inputs)
    rows = _thinned(met.transpose(0, 1).flatten(1).T.to(wide))  # (positions, m)
    if factors.order == "dw-pw":  # `rank` filters for each input channel
        patches = _patches(inputs, conv, wide)
        filters = factors.depthwise.reshape(conv.in_channels, factors.rank, -1)
        groups = conv.in_channels
    else:  # one for each output channel, over `rank` maps
        patches = _patches(nn.functional.conv2d(inputs, factors.pointwise), conv, wide)
        filters = factors.depthwise.reshape(conv.out_channels, 1, -1)
        groups = conv.out_channels
    patches = patches.reshape(len(patches), groups, -1).transpose(0, 1)  # (G, positions, k)
    tensors = (filters, factors.pointwise.flatten(1)[None], factors.bias[None, :, None])
    one = torch.ones(1, 1, 1, device=inputs.device, dtype=torch.float64)
    seconds = (_second_moments(patches), _second_moments(rows[None]), one)
    parameters, roots = [], []
    for tensor, second in zip(tensors, seconds, strict=True):
        root, inverse = _roots(second)
        value = _times(tensor.double(), root)
        scale = value.square().mean().sqrt().clamp_min(1e-6)
        parameters.append((value / scale).to(wide).requires_grad_())
        roots.append((inverse * scale).to(wide))
    depthwise, pointwise, bias = parameters
    first, second, third = roots
    return Coordinates(factors, (depthwise, pointwise, bias), (first, second, third))


def _patches(inputs: Tensor, conv: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """Patches at a few output positions of each image, the same in all."""
    each = max(1, ROWS // len(inputs))
    positions = len(extract_patches(inputs[:1, :1], conv))
    at = torch.linspace(0, positions - 1, min(each, positions)).long()
    return extract_patches(inputs, conv, at).to(dtype)


def _thinned(rows: Tensor) -> Tensor:
    """About every so-manieth row, where there are many more than a second moment needs."""
    needed = max(ROWS, 4 * rows.shape[1])
    return rows[:: max(1, len(rows) // needed)]


def _second_moments(rows: Tensor) -> Tensor:
    """E[z z'] for (G, positions, n), up to a factor: (G, n, n), or its diagonal (G, 1, n) where n
    is large. Values whose squares float32 cannot hold are brought to the order of 1 first: the
    factor is lost again where the parameters are given a root mean square of one."""
    if working_type(rows) != rows.dtype:
        rows = rows / rows.abs().max()
    if rows.shape[2] > WIDEST:
        return rows.double().square().mean(1, keepdim=True)
    return (rows.mT @ rows).double() / rows.shape[1]


def _roots(second: Tensor) -> tuple[Tensor, Tensor]:
    """C^(1/2) and C^(-1/2) of the damped second moments, of the same shape."""
    if second.shape[1] == 1:
        spread = (second + DAMPING * second.mean(2, keepdim=True)).clamp_min(TINY).sqrt()
        return spread, 1 / spread
    mean = second.diagonal(dim1=1, dim2=2).mean(1)[:, None]
    values, vectors = torch.linalg.eigh(second)
    spread = (values.clamp_min(0) + DAMPING * mean).clamp_min(TINY).sqrt()[:, None]
    return (vectors * spread) @ vectors.mT, (vectors / spread) @ vectors.mT


def _times(values: Tensor, root: Tensor) -> Tensor:
    return values * root if root.shape[1] == 1 else values @ root
