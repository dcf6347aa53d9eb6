"""Whatever the knobs, a kernel computes the same: the search may try anything."""

from __future__ import annotations

import numpy as np
import pytest
from compiling.kernel_runner import run_kernel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sepify.compiling.kernel_tuning.sample import sample, tolerance
from sepify.compiling.kernels.knobs import Knobs
from sepify.compiling.kernels.shapes import Conv, Epilogue, Machine, Window
from sepify.compiling.kernels.workload import KINDS, Workload

_MACHINE = Machine(8, 16)
_RELU = Epilogue(clip=(0.0, float("inf")))
_THREE = Window((3, 3), (2, 1), (1, 1, 1, 1), (1, 2))  # 11 x 13 -> 6 x 11


def workload(kind: str) -> Workload:
    if kind == "linear":
        conv = Conv(3, 44, 1, 1, 90, Window((1, 1)), 1, 1)
        return Workload(kind, conv, _RELU, blocked=False)
    if kind == "dense":
        return Workload(kind, Conv(2, 20, 11, 13, 60, _THREE, 6, 11), Epilogue(residual=True))
    if kind == "grouped":
        return Workload(kind, Conv(2, 20, 11, 13, 60, _THREE, 6, 11, 20), _RELU)
    conv = Conv(2, 20, 11, 13, 20, _THREE, 6, 11, 20)
    if kind == "depthwise":
        return Workload(kind, conv, _RELU)
    return Workload(kind, conv, Epilogue(True), rank=2, outputs=60, middle=_RELU)


def _splits(kind: str) -> st.SearchStrategy[int]:
    vectors = {"linear": 12, "depthwise": 3}.get(kind, 8)
    return st.sampled_from([n for n in range(1, vectors + 1) if vectors % n == 0])


@pytest.mark.parametrize("kind", KINDS)
def test_any_knobs(kind):
    @settings(
        max_examples=6,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        pixels=st.integers(1, 9),
        vectors=st.integers(1, 5),
        rows=st.integers(1, 1 if kind == "linear" else 6),
        splits=_splits(kind),
        weight_bytes=st.sampled_from([1, 2048, 1 << 30]),
        unroll=st.sampled_from([2, 4, 16]),
        row_tile=st.integers(1, 20),
    )
    def check(**values):
        given_workload = workload(kind)
        arguments, expected = sample(given_workload, _MACHINE.lanes)
        ours = run_kernel(given_workload.kernel(_MACHINE, Knobs(**values)), *arguments)
        error = np.abs(ours - expected).max() / np.abs(expected).max()
        assert error <= tolerance(given_workload)

    check()


@pytest.mark.parametrize("side", [7, 14, 28, 56])
@pytest.mark.parametrize("kind", ["dense", "separable"])
def test_no_thread_is_idle_at_small_maps(kind, side):
    """Two threads have an even number of equal tasks wherever the work is worth a second thread."""
    machine = Machine(16, 32, max_tasks=4)
    channels = 3584 // side
    groups = channels if kind == "separable" else 1
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    conv = Conv(1, channels, side, side, channels, window, side, side, groups)
    knobs = Workload(kind, conv, outputs=channels).default_knobs(machine)
    assert -(-side // knobs.rows) * knobs.splits % 2 == 0
