"""--preprocess timm:MODEL and torchvision:WEIGHTS against what those libraries do themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from sepify.errors import UsageError
from sepify.images import read_preparation
from zoo import torchvision_shim  # noqa: F401  torchvision's operators, for a torch without CUDA

pytestmark = pytest.mark.zoo


@pytest.fixture(params=[(300, 400), (400, 300), (231, 231)])
def photograph(request: pytest.FixtureRequest) -> Image.Image:
    """Smooth, as photographs are, so that resampling filters differ little at single pixels."""
    height, width = request.param
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / (20 + 7 * c)) * np.cos(columns / (31 - 5 * c)) for c in range(3)]
    return Image.fromarray((127.5 * (1 + np.stack(waves, -1))).astype(np.uint8))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_large_100", "regnetx_002", "mixnet_s"])
def test_timm(name: str, photograph: Image.Image) -> None:
    timm = pytest.importorskip("timm", reason="`make test-zoo` installs timm")
    ours = read_preparation(f"timm:{name}").of_picture(photograph, 3)
    config = timm.data.resolve_data_config(timm.get_pretrained_cfg(name).to_dict())
    theirs = timm.data.create_transform(**config)(photograph)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "ResNet18_Weights.IMAGENET1K_V1",
        "ResNet50_Weights.IMAGENET1K_V2",
        "EfficientNet_B0_Weights.IMAGENET1K_V1",
    ],
)
def test_torchvision(name: str, photograph: Image.Image) -> None:
    models = pytest.importorskip("torchvision.models", reason="`make test-zoo` installs it")
    ours = read_preparation(f"torchvision:{name}").of_picture(photograph, 3)
    theirs = models.get_weight(name).transforms()(photograph)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["timm:no_such_net", "torchvision:No_Weights.NONE"])
def test_unknown_names(name: str) -> None:
    pytest.importorskip("timm", reason="`make test-zoo` installs timm")
    with pytest.raises(UsageError, match="knows no"):
        read_preparation(name)


def test_the_result_is_float32_in_chw(photograph: Image.Image) -> None:
    pytest.importorskip("timm", reason="`make test-zoo` installs timm")
    made = read_preparation("timm:resnet18").of_picture(photograph, 3)
    assert made.dtype == torch.float32
    assert made.shape == (3, 224, 224)
