"""Solving where the model is. No GPU is needed: torch's fake tensors carry a device and shapes and
no values, and refuse what would mix devices. (They can neither multiply nor convolve on a
GPU that is not there: what comes after the patches has only been run on CPUs.)"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sepify.calibration.batches import on_device_of
from sepify.calibration.gathering import SplitMomentSums


def conv_on(device: str) -> nn.Conv2d:
    conv = nn.Conv2d(6, 8, 3, padding=1)
    conv.weight = nn.Parameter(torch.empty(8, 6, 3, 3, device=device))
    conv.bias = nn.Parameter(torch.empty(8, device=device))
    return conv.requires_grad_(False)


def test_batches_and_patches_go_where_the_model_is():
    with FakeTensorMode():
        conv = conv_on("cuda")
        (inputs,) = on_device_of(conv, (torch.empty(32, 6, 10, 10),))
        assert inputs.device.type == "cuda"
        sums = SplitMomentSums(conv, 5_000)  # so many that positions are sampled
        sums.add(inputs, torch.empty(32, 8, 10, 10, device="cuda"))
        for part in (sums.fit, sums.heldout):
            ((patches, wanted),) = part.pending
            assert {patches.device.type, wanted.device.type} == {"cuda"}
            assert (patches.shape[1], wanted.shape[1]) == (54, 8)
        assert sums.positions == 28 * sums.per_image


def test_what_would_mix_devices_is_refused():
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        torch.add(conv_on("cuda").weight, torch.empty(8, 6, 3, 3))
