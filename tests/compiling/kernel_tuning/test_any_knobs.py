"""Whatever the knobs, a kernel computes the same: the search may try anything."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from compiling.kernel_runner import run_kernel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepify.compiling.kernel_tuning.sample import sample, tolerance
from sepify.compiling.kernel_tuning.search import search
from sepify.compiling.kernels.cook_toom import TILES
from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.depthwise import DEPTHWISE
from sepify.compiling.kernels.grouped import GROUPED
from sepify.compiling.kernels.kind import Kind, Workload
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.linear import LINEAR
from sepify.compiling.kernels.machine import Machine
from sepify.compiling.kernels.pooled import POOLED
from sepify.compiling.kernels.pw_dw import PW_DW
from sepify.compiling.kernels.separable import SEPARABLE
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window
from sepify.compiling.kernels.table import KINDS
from sepify.compiling.kernels.winograd import can_winograd, tile_count

_MACHINE = Machine(8, 16)
_RELU = Epilogue(clip=(0.0, float("inf")))
_THREE = Window((3, 3), (2, 1), (1, 1, 1, 1), (1, 2))  # 11 x 13 -> 6 x 11


_STEM = Conv(2, 3, 11, 13, 60, _THREE, 6, 11)
_DEEP = Conv(2, 20, 11, 13, 20, _THREE, 6, 11, 20)
_POINT = Conv(2, 20, 11, 13, 120, Window((1, 1)), 11, 13)
_FILTERS = Conv(2, 120, 11, 13, 60, Window((3, 3), (2, 1), (1, 1, 1, 1)), 6, 13, 60)
_POOL = Conv(2, 60, 6, 11, 60, Window((3, 3), (1, 2), (1, 1, 1, 1)), 6, 6, 60)
_WORKLOADS = {
    w.kind: w
    for w in (
        Workload(LINEAR, Conv(3, 44, 1, 1, 90, Window((1, 1)), 1, 1), _RELU, blocked=False),
        Workload(POOLED, _STEM, _RELU, blocked=False, then=_POOL),
        Workload(PW_DW, _POINT, Epilogue(True), middle=_RELU, then=_FILTERS),
        Workload(DENSE, Conv(2, 20, 11, 13, 60, _THREE, 6, 11), Epilogue(residual=True)),
        Workload(GROUPED, Conv(2, 20, 11, 13, 60, _THREE, 6, 11, 20), _RELU),
        Workload(DEPTHWISE, _DEEP, _RELU),
        Workload(SEPARABLE, _DEEP, Epilogue(True), rank=2, outputs=60, middle=_RELU),
    )
}


_STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def _splits(kind: Kind) -> st.SearchStrategy[int]:
    vectors = {LINEAR: 12, DEPTHWISE: 3, POOLED: 1}.get(kind, 8)
    return st.sampled_from([n for n in range(1, vectors + 1) if vectors % n == 0])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_any_knobs(kind):
    @settings(_STEADY, max_examples=6)
    @given(
        pixels=st.integers(1, 9),
        vectors=st.integers(1, 5),
        rows=st.integers(1, 1 if kind is LINEAR else 6),
        splits=_splits(kind),
        weight_bytes=st.sampled_from([1, 2048, 1 << 30]),
        unroll=st.sampled_from([2, 4, 16]),
        row_tile=st.integers(1, 20),
    )
    def check(**values):
        require_right(_WORKLOADS[kind], Knobs(**values))

    check()


@settings(_STEADY, max_examples=8)
@given(
    pixels=st.integers(1, 9),
    vectors=st.integers(1, 5),
    rows=st.integers(1, 6),
    splits=st.sampled_from([1, 2, 4, 8]),
    weight_bytes=st.sampled_from([1, 2048, 1 << 30]),
    unroll=st.sampled_from([2, 4, 16]),
    winograd=st.sampled_from(TILES),
)
def test_any_knobs_of_winograd(**values):
    conv = Conv(2, 20, 11, 13, 60, Window((3, 3), padding=(1, 0, 1, 2)), 11, 13)
    given_workload = Workload(DENSE, conv, Epilogue(residual=True))
    assert can_winograd(conv)
    require_right(given_workload, Knobs(**values))


def require_right(workload: Workload, knobs: Knobs) -> None:
    """The kernel computes what torch does, but for rounding."""
    arguments, expected = sample(workload, _MACHINE, knobs)
    ours = run_kernel(workload.kernel(_MACHINE, knobs), *arguments)
    error = np.abs(ours - expected).max() / np.abs(expected).max()
    assert error <= tolerance(workload, _MACHINE, knobs)


@pytest.mark.parametrize("side", [7, 14, 28, 56])
@pytest.mark.parametrize("kind", [DENSE, SEPARABLE], ids=str)
def test_no_thread_is_idle_at_small_maps(kind, side):
    """Two threads have an even number of equal tasks wherever the work is worth a second thread."""
    machine = Machine(16, 32, max_tasks=4)
    channels = 3584 // side
    groups = channels if kind is SEPARABLE else 1
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    conv = Conv(1, channels, side, side, channels, window, side, side, groups)
    knobs = Workload(kind, conv, outputs=channels).default_knobs(machine)
    units = tile_count(conv, knobs.winograd) if knobs.winograd else side
    assert -(-units // knobs.rows) * knobs.splits % 2 == 0


@pytest.mark.parametrize(
    ("channels", "outputs", "side", "m"),
    [(64, 64, 56, 4), (128, 128, 28, 4), (256, 256, 14, 4), (512, 512, 7, 2), (512, 512, 3, 0)],
)
def test_winograd_where_it_wins(channels, outputs, side, m):
    conv = Conv(1, channels, side, side, outputs, Window((3, 3), padding=(1,) * 4), side, side)
    dense = Workload(DENSE, conv)
    assert dense.default_knobs(Machine(16, 32)).winograd == m
    assert dense.default_knobs(Machine(8, 16)).winograd == m
    assert dense.default_knobs(Machine(4, 32)).winograd == 0  # has not been measured
    tried = {knobs.winograd for knobs in candidates(dense, Machine(4, 32))}
    assert tried == {0, *TILES}  # but can be tuned to


@pytest.mark.parametrize(
    "window",
    [
        Window((3, 3), (2, 2), (1, 1, 1, 1)),
        Window((3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
        Window((5, 5), padding=(2, 2, 2, 2)),
        Window((1, 3), padding=(0, 1, 0, 1)),
    ],
)
def test_winograd_never(window):
    side = (56 - 1) // window.stride[0] + 1
    dense = Workload(DENSE, Conv(1, 64, 56, 56, 64, window, side, side))
    assert not can_winograd(dense.conv)
    assert {knobs.winograd for knobs in candidates(dense, _MACHINE)} == {0}


def candidates(workload: Workload, machine: Machine) -> list[Knobs]:
    """What the search would try if nothing were ever better."""
    steps = search(workload, machine)
    group = next(steps)
    seen = [*group]
    with contextlib.suppress(StopIteration):
        while True:
            group = steps.send([1.0] * len(group))
            seen += group
    return seen
