"""Coordinates for gradient steps on factors, in which all directions weigh about alike.

Neighbouring pixels, and the terms of one channel, are much alike: some directions of the weights
move the output a thousand times as much as others, and plain gradient steps hardly get anywhere
along the latter. With C = E[z z'] of what weights w meet and w = v C^(-1/2), a step on v moves the
output as much in every direction (LeCun et al. 1998, "Efficient BackProp", section 4.3, on
uncorrelated inputs; the input side of K-FAC, Martens and Grosse 2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sepify.factorize.factors import Factors, Part, part_inputs, with_weights
from sepify.factorize.statistics import extract_patches, working_type

DAMPING = 1e-3  # of the mean variance: directions that carry next to nothing are left alone
WIDEST = 2_048  # second moments beyond it are taken for diagonal: their roots would take minutes
TINY = 1e-12
ROWS = 8_192  # positions that second moments are taken from, at least where there are as many


@dataclass(frozen=True)
class Coordinates:
    """One convolution's factors as trainable tensors of root mean square one, and the way back."""

    given: Factors
    parameters: tuple[Tensor, ...]  # of each part (groups, n, m), then the bias
    roots: tuple[Tensor, ...]  # C^(-1/2), which they are multiplied by; or its diagonal

    def factors(self) -> Factors:
        """The factors that the parameters stand for, differentiable in them."""
        given = self.given
        assert given.bias is not None
        *weights, bias = (
            _times(value, root).to(given.dtype)
            for value, root in zip(self.parameters, self.roots, strict=True)
        )
        named = dict(zip(given.weights, weights, strict=True))
        return with_weights(given, named, bias=bias.reshape(given.bias.shape))


@torch.no_grad()
def whiten(factors: Factors, conv: nn.Conv2d, inputs: Tensor) -> Coordinates:
    """Coordinates for `factors` with a bias, which stand in for `conv` on (B, M, H, W) `inputs`."""
    assert factors.bias is not None, "solved factors have a bias"
    wide = torch.promote_types(inputs.dtype, torch.float32)
    tensors, seconds = [], []
    for part, met in zip(factors.parts, part_inputs(factors, conv, inputs), strict=True):
        patches = _patches(part, conv, met, wide)
        tensors.append(part.weight.reshape(part.groups, -1, part.weight[0].numel()))
        seconds.append(
            _second_moments(patches.reshape(len(patches), part.groups, -1).transpose(0, 1))
        )
    tensors.append(factors.bias[None, :, None])
    seconds.append(torch.ones(1, 1, 1, device=inputs.device, dtype=torch.float64))
    parameters, roots = [], []
    for tensor, second in zip(tensors, seconds, strict=True):
        root, inverse = _roots(second)
        value = _times(tensor.double(), root)
        scale = value.square().mean().sqrt().clamp_min(1e-6)
        parameters.append((value / scale).to(wide).requires_grad_())
        roots.append((inverse * scale).to(wide))
    return Coordinates(factors, tuple(parameters), tuple(roots))


def _patches(part: Part, conv: nn.Conv2d, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """The patches that a part meets at a few output positions of each image, the same in all;
    more of them where the patches are longer."""
    window = part.stand_in(conv)
    needed = max(ROWS, 4 * part.weight[0].numel())
    each = max(1, needed // len(inputs))
    positions = len(extract_patches(inputs[:1, :1], window))
    at = torch.linspace(0, positions - 1, min(each, positions)).long()
    return extract_patches(inputs, window, at).to(dtype)


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
