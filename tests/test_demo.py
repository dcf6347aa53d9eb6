"""What ships with the package is what the README says it is."""

import hashlib

import pytest
import torch
from options import grouped
from torch import nn

import sepify
from sepify.capture import capture
from sepify.demo.data import CLASSES, DATA_FILE, MODEL_FILE, load_demo_data
from sepify.formats.torchscript_read import load_torchscript
from sepify.judging.statistics import top1

SIX_MEGABYTES = 6 * 2**20


@pytest.fixture(scope="module")
def data():
    return load_demo_data()


@pytest.fixture(scope="module")
def network():
    return load_torchscript(MODEL_FILE).module


def test_the_images(data):
    assert DATA_FILE.stat().st_size <= SIX_MEGABYTES
    assert data.images.shape == (10_000, 1, 28, 28)
    assert data.calibration.shape == (2_000, 1, 28, 28)
    assert data.labels.bincount().tolist() == [1_000] * len(CLASSES)
    assert data.images.max() == 255
    # Fashion-MNIST's t10k-images file, behind its header
    pixels = data.images.byte().numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest().startswith("c867c93ff9536059")


def test_the_network(network, data):
    assert MODEL_FILE.stat().st_size <= SIX_MEGABYTES
    graph_module = capture(network, (data.images[:2],)).graph_module
    convs = [m for m in graph_module.modules() if isinstance(m, nn.Conv2d)]
    assert len([c for c in convs if c.kernel_size == (3, 3) and c.groups == 1]) >= 10
    assert top1(network, data.images, data.labels) >= 0.925


def test_solving_on_a_few_images_saves_what_the_svd_destroys(network, data):
    """Whole test set; every 3x3 convolution but the stem at rank 1; 256 unlabelled images."""
    options = dict(
        rank=1, keep=["stem"], calibration=data.calibration[:256], example_inputs=data.images[:2]
    )
    by_svd = sepify.convert(network, **grouped(options, method="svd"))
    solved = sepify.convert(network, **grouped(options, refine=False))
    assert top1(by_svd, data.images, data.labels) < 0.6  # with BatchNorm re-estimated
    assert top1(solved, data.images, data.labels) > 0.85
    plan = solved.meta["sepify"].plan
    before, after = (sum(getattr(d, side).macs for d in plan) for side in ("before", "after"))
    assert after / before < 0.16


def test_the_network_of_the_training_script_is_the_one_that_ships(network):
    from sepify.demo.network import DemoResNet

    rebuilt = DemoResNet()
    rebuilt.load_state_dict(network.state_dict())
    x = torch.rand(3, 1, 28, 28) * 255
    torch.testing.assert_close(rebuilt.eval()(x), network(x))
