"""Which kernel computes which convolution: every row of the tables fits first somewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sepify.compiling import compile
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.depthwise import DEPTHWISE
from sepify.compiling.kernels.grouped import GROUPED
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.shapes import Conv, Window
from sepify.compiling.lower_convs import SINGLES, has_kernel


def conv(channels: int, outputs: int, groups: int) -> Conv:
    return Conv(1, channels, 9, 9, outputs, Window((3, 3), padding=(1,) * 4), 9, 9, groups)


@pytest.mark.parametrize(
    ("given", "index", "kind"),
    [
        (conv(3, 16, 1), 0, DENSE),
        (conv(32, 32, 32), 1, DEPTHWISE),
        (conv(32, 16, 1), 2, DENSE),
        (conv(64, 64, 4), 2, DENSE),
        (conv(1, 1, 1), 0, DENSE),
        (conv(32, 64, 32), 3, GROUPED),
        (conv(12, 6, 3), 3, GROUPED),
    ],
)
def test_the_first_row_that_fits(given, index, kind):
    machine = Machine(8, 16)
    fitting = [number for number, row in enumerate(SINGLES) if row.fits(given, machine)]
    assert fitting[0] == index
    assert SINGLES[index].kind is kind
    assert has_kernel(given, machine)


def test_large_groups_that_are_no_whole_vectors_have_no_kernel():
    assert not has_kernel(conv(68, 68, 4), Machine(8, 16))


def _points(channels: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(channels, outputs, 1)


def _filters(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)


@pytest.mark.parametrize(
    ("layers", "kernels"),
    [
        ([nn.Conv2d(3, 32, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2)], {"pooled": 1}),
        (
            [_points(3, 32), _filters(32), _points(32, 48), _filters(48), _points(48, 8)],
            {"pointwise": 1, "separable": 2},  # and no pw_dw between them
        ),
        ([_filters(32), _filters(32)], {"depthwise": 2}),
        ([_points(32, 64), _filters(64)], {"pw_dw": 1}),
    ],
)
def test_steps_that_one_kernel_computes(layers, kernels):
    torch.manual_seed(0)
    channels = layers[0].in_channels
    made = compile(nn.Sequential(*layers).eval(), torch.randn(1, channels, 8, 8))
    own = made.metadata.own_kernels
    assert {kind: own[kind] for kind in own if kind not in ("pack", "unpack")} == kernels
