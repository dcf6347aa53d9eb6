"""The images that ship with the package: Fashion-MNIST's test set and 2,000 training images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sepify.storage.arrays import read_arrays

DATA_FILE = Path(__file__).with_name("fashion-mnist.npz")
MODEL_FILE = Path(__file__).with_name("resnet.pt")
CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True)
class DemoData:
    """Images are (n, 1, 28, 28) float32 in 0..255, as the demo network takes them."""

    calibration: Tensor  # 2,000 training images, unlabelled
    images: Tensor  # the 10,000 test images
    labels: Tensor  # (10,000,) int64


def load_demo_data(path: Path = DATA_FILE) -> DemoData:
    """Read the shipped file. Raises FileError where it is missing or damaged."""
    arrays = read_arrays(path, ("calibration", "test", "labels"))

    def as_images(name: str) -> Tensor:
        return torch.from_numpy(arrays[name]).unsqueeze(1).float()

    labels = torch.from_numpy(arrays["labels"]).long()
    return DemoData(as_images("calibration"), as_images("test"), labels)
