"""Convolutions that became pointwise, depthwise and pointwise, without an activation between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compiling.kernel_runner import block, run_kernel
from torch import Tensor, nn

from sepify.compiling import compile
from sepify.compiling.kernel_tuning.sample import sample
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.kind import Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.separable import SEPARABLE
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.tiles import rank_tiles, tiling_for


class Block(nn.Module):
    """A residual block of two such convolutions; a stride takes the shortcut away."""

    def __init__(self, channels: int, middle: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.first = _bottleneck(channels, middle, outputs, kernel, stride)
        self.second = _bottleneck(outputs, middle, outputs, kernel, 1)
        self.norm = nn.BatchNorm2d(outputs)
        self.residual = stride == 1 and channels == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.second(self.first(x).relu()))
        return (y + x if self.residual else y).relu()


def _bottleneck(channels: int, middle: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(channels, middle, 1, bias=False),
        nn.Conv2d(middle, middle, kernel, stride, padding, groups=middle, bias=False),
        nn.Conv2d(middle, outputs, 1),
    )


@pytest.mark.parametrize(
    ("channels", "middle", "outputs", "kernel", "stride", "side"),
    [
        (24, 37, 24, 3, 1, (13, 11)),
        (20, 9, 40, 3, 2, (13, 11)),
        (24, 3, 24, 5, 1, (8, 7)),
        (16, 1, 16, 3, 1, (9, 9)),
        (40, 64, 40, 3, 2, (14, 14)),
    ],
)
def test_a_network_of_bottlenecks(channels, middle, outputs, kernel, stride, side):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        Block(channels, middle, outputs, kernel, stride),
        Block(outputs, middle, outputs, kernel, 1),
    ).eval()
    x = torch.randn(2, 3, *side)
    with torch.no_grad():
        want = model(x)
    made = compile(model, x)
    assert (made(x) - want).abs().max() <= 1e-5 * want.abs().max()
    own = made.metadata.own_kernels
    assert own["pointwise"] >= 4
    assert middle == 1 or own["separable"] == 4


_MACHINES = [Machine(4, 32), Machine(8, 16), Machine(16, 32)]
_POINT = Conv(2, 37, 7, 9, 45, Window((1, 1)), 7, 9)
_WINDOW = Conv(1, 21, 8, 7, 45, Window((3, 3), (2, 1), (1, 1, 1, 1)), 4, 7)
_EVEN = Conv(1, 37, 9, 9, 45, Window((3, 3), padding=(1, 1, 1, 1)), 9, 9)


@pytest.mark.parametrize("machine", _MACHINES, ids=lambda machine: str(machine.lanes))
@pytest.mark.parametrize(
    "knobs",
    [
        Knobs(4, 2, 4, 1, weight_bytes=1024, unroll=4),
        Knobs(5, 3, 4, 1, weight_bytes=1 << 30, unroll=16),
    ],
    ids=["in chunks", "at once"],
)
@pytest.mark.parametrize("conv", [_POINT, _WINDOW], ids=["pointwise", "3x3"])
def test_lanes_past_the_last_channel_are_not_read(machine, knobs, conv):
    """They would cost as much as channels: whatever is there, the answer is the same."""
    workload = Workload(DENSE, conv, Epilogue(residual=True))
    arguments, expected = sample(workload, machine, knobs)
    shape = conv.batch, conv.channels, conv.height, conv.width
    unused = block(torch.ones(shape), machine.lanes).reshape(arguments[0].shape) == 0
    assert unused.any()
    arguments[0] = np.where(unused, np.nan, arguments[0]).astype(np.float32)
    have = run_kernel(workload.kernel(machine, knobs), *arguments)
    assert np.abs(have - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("machine", _MACHINES, ids=lambda machine: str(machine.lanes))
@pytest.mark.parametrize("vectors", [2, 3])
def test_channels_and_outputs_that_fill_no_whole_tile(machine, vectors):
    """In the kernels that a bottleneck and a dense convolution get, several tiles in a row."""
    filters = Conv(2, 37, 9, 7, 37, Window((3, 3), (2, 1), (1, 1, 1, 1)), 5, 7, 37)
    knobs = Knobs(4, vectors, 3, 1, weight_bytes=2048, unroll=4)
    for workload, chosen in (
        (Workload(SEPARABLE, filters, Epilogue(True), outputs=45), knobs),
        (Workload(DENSE, _EVEN), Knobs(4, vectors, 9, 1, winograd=4)),
    ):
        arguments, expected = sample(workload, machine, chosen)
        have = run_kernel(workload.kernel(machine, chosen), *arguments)
        assert np.abs(have - expected).max() <= 1e-4 * np.abs(expected).max()


def test_vectors_left_over_get_tiles_of_more_pixels():
    machine = Machine(8, 16)
    (pairs, narrow), (single, wide) = tiling_for(Knobs(4, 2, 1, 1), 56, 5, machine).runs
    assert (pairs.size, pairs.count, single.size, single.start) == (2, 2, 1, 4)
    assert [run.size for run in narrow] == [4]
    assert [run.size for run in wide] == [8]  # or an FMA would wait for the one before it
    assert rank_tiles(56, 5, machine)[0] == (4, 2)
