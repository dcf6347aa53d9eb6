"""Instructions as executed: the multiply-adds of a separable block are vector FMAs, all of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sepify.compiling.device.counting import footprint
from sepify.compiling.targets import Target, find_target
from sepify.errors import CompileError


def silent(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def block(channels: int, outputs: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, padding, groups=channels),
        nn.ReLU(),
        nn.Conv2d(channels, outputs, 1),
    ).eval()


def macs(channels: int, outputs: int, size: int, stride: int, padding: int) -> tuple[int, int]:
    """Multiply-adds of the depthwise part, counted where its window lies on the map (nothing is
    multiplied by the zeros around it), and of the pointwise part."""
    out = (size + 2 * padding - 3) // stride + 1
    starts = [i * stride - padding for i in range(out)]
    taps = sum(0 <= start + k < size for start in starts for k in range(3))
    return channels * taps * taps, channels * outputs * out * out


def one_core(name: str) -> Target:
    target = find_target(name)
    assert target.machine is not None
    return replace(target, cores=1, machine=replace(target.machine, max_tasks=1))


@pytest.mark.parametrize(
    ("channels", "outputs", "size", "stride", "padding"),
    [(32, 64, 18, 1, 0), (16, 32, 16, 1, 1), (64, 128, 14, 2, 1), (128, 128, 9, 1, 0)],
)
def test_fma_instructions_are_macs_over_four_exactly(channels, outputs, size, stride, padding):
    network, x = block(channels, outputs, stride, padding), torch.randn(1, channels, size, size)
    found = footprint(network, x, one_core("raspberry-pi-4"), silent)
    assert found.fma == sum(macs(channels, outputs, size, stride, padding)) // 4
    assert found.scalar_fma == 0


def test_tasks_for_several_cores_may_do_the_depthwise_part_again():
    network, x = block(64, 128, 2, 1), torch.randn(1, 64, 14, 14)
    depthwise, pointwise = macs(64, 128, 14, 2, 1)
    assert footprint(network, x, "raspberry-pi-4", silent).fma == (2 * depthwise + pointwise) // 4


def test_armv7_uses_vectors_though_it_does_not_fuse():
    """A multiplication and an addition for each multiply-add would be more instructions."""
    network, x = block(32, 64), torch.randn(1, 32, 18, 18)
    found = footprint(network, x, one_core("raspberry-pi-2"), silent)
    assert found.fma == 0
    assert found.instructions < 2 * sum(macs(32, 64, 18, 1, 0))


def test_counts_are_the_same_every_time_and_fall_with_the_work():
    dense = nn.Conv2d(32, 32, 3, 1, 1).eval()
    x = torch.randn(1, 32, 14, 14)
    before = footprint(dense, x, "raspberry-pi-4", silent)
    assert footprint(dense, x, "raspberry-pi-4", silent) == before
    after = footprint(block(32, 32, 1, 1), x, "raspberry-pi-4", silent)
    assert after.instructions < before.instructions / 3
    assert after.weights < before.weights
    assert before.fma == 32 * 32 * 14 * 14 * 9 / 4  # the padding is multiplied here: it is copied
    assert 0 < after.loads < after.instructions
    assert 0 < after.stores < after.loads


@pytest.mark.parametrize("target", ["apple-m1", "native"])
def test_targets_that_cannot_be_emulated_are_refused(target):
    with pytest.raises(CompileError, match="raspberry-pi-4 or armv7"):
        footprint(block(8, 8), torch.randn(1, 8, 8, 8), target, silent)
