"""Solving where the model is. No GPU is needed: the device of `second_device.py` computes, and
refuses to be mixed with another. (What a GPU's kernels round, and their speed, are not shown.)"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("second_device_cases.py")
WAYS = (
    "from weights",
    "svd, BatchNorm re-estimated",
    "least squares, refined",
    "pw-dw",
    "on maps",
    "mobilenet",
    "planned",
    "promised",
    "thinned",
)


@pytest.fixture(scope="module")
def found():
    """In a process of its own: a device is registered for good."""
    command = [sys.executable, "-W", "ignore", str(CASES)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_second_device_refuses_what_is_elsewhere(found):
    assert "tensors on cpu, second:0" in found["mixed"]


@pytest.mark.parametrize("way", WAYS)
def test_a_model_is_converted_where_it_is_to_the_same_weights(found, way):
    if way == "thinned":
        pytest.importorskip("torch_pruning")
    assert found["cases"][way] == {"apart": 0.0, "devices": ["second:0"]}


def test_a_model_on_two_devices_stays_on_both(found):
    assert found["cases"]["on two devices"] == {"apart": 0.0, "devices": ["cpu", "second:0"]}
