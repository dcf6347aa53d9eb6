"""The images that the benchmarks run on: calibration images, test images, and labels if any."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from sepify.demo.data import load_demo_data
from sepify.demo.train import read_split
from sepify.errors import FileError
from sepify.storage import atomic_path
from sepify.storage.arrays import read_arrays

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
SHARED = HERE.parent.parent / "shared" / "data"  # beside the checkout, never copied into it
CIFAR_ARCHIVE = SHARED / "cifar10-jpeg.tar.xz"
CIFAR_CACHE = OUT / "cifar10.npz"
CIFAR_TRAINING_CACHE = OUT / "cifar10-training-labelled.npz"
CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CALIBRATION_IMAGES = 1_024
SEED = 0


@dataclass(frozen=True)
class Images:
    """Unlabelled calibration images from the training set, (n, C, H, W), as the network takes
    them; the test images, and their labels where there are any."""

    calibration: Tensor
    test: Tensor
    labels: Tensor | None

    def limited(self, limit: int | None) -> Images:
        """The same with at most `limit` test images, drawn at random."""
        if limit is None or limit >= len(self.test):
            return self
        drawn = torch.randperm(len(self.test), generator=torch.Generator().manual_seed(SEED))
        drawn = drawn[:limit].sort().values
        labels = None if self.labels is None else self.labels[drawn]
        return Images(self.calibration, self.test[drawn], labels)


def fashion_mnist() -> Images:
    """Fashion-MNIST as it ships with the package, 0 to 255: 1,024 training, 10,000 test images."""
    data = load_demo_data()
    return Images(data.calibration[:CALIBRATION_IMAGES], data.images, data.labels)


def cifar10() -> Images:
    """CIFAR-10 from its JPEG files, with ImageNet's mean and deviation: 1,024 of the training
    images drawn at random, all 10,000 test images. Raises FileError where the archive is absent."""
    pixels, shown, labels = _cifar_pixels()
    return Images(_normalised(pixels), _normalised(shown), torch.from_numpy(labels).long())


def cifar10_training() -> Tensor:
    """All 50,000 training images of `cifar10`, (n, 3, 32, 32), without their labels."""
    return cifar10_training_labelled()[0]


def cifar10_training_labelled() -> tuple[Tensor, Tensor]:
    """All 50,000 training images of `cifar10`, (n, 3, 32, 32), and their labels (n,)."""
    if not CIFAR_TRAINING_CACHE.is_file():
        files, train, _ = _read_cifar()
        labels = _cifar_labels(train)
        with atomic_path(CIFAR_TRAINING_CACHE) as temporary, temporary.open("wb") as file:
            np.savez(file, images=_decoded(files, train), labels=labels)
    arrays = read_arrays(CIFAR_TRAINING_CACHE, ["images", "labels"])
    return _normalised(arrays["images"]), torch.from_numpy(arrays["labels"]).long()


def fashion_mnist_training() -> Tensor:
    """All 60,000 training images of Fashion-MNIST, (n, 1, 28, 28), 0 to 255, without their labels,
    from Debian's package. Raises FileError where it is not installed."""
    return fashion_mnist_training_labelled()[0]


def fashion_mnist_training_labelled() -> tuple[Tensor, Tensor]:
    """The same with their labels (n,)."""
    pixels, labels = read_split("train")
    images = torch.from_numpy(pixels.copy()).float().unsqueeze(1)
    return images, torch.from_numpy(labels.copy()).long()


def cifar10_enlarged(calibration: int, test: int, size: int = 224) -> Images:
    """CIFAR-10's photographs enlarged bilinearly, BGR around Caffe's mean, without labels:
    natural images, if soft ones, for a network from elsewhere."""
    pixels, shown, _ = _cifar_pixels()

    def prepared(array: np.ndarray) -> Tensor:
        images = torch.from_numpy(array).permute(0, 3, 1, 2).float()
        images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
        return images.flip(1) - torch.tensor([104.0, 117.0, 123.0])[:, None, None]

    chosen = np.random.default_rng(SEED).permutation(len(shown))[:test]
    return Images(prepared(pixels[:calibration]), prepared(shown[chosen]), None)


def smooth_noise(images: int, size: int, channels: int = 3, seed: int = SEED) -> Tensor:
    """Random images whose power falls with frequency as in photographs, (n, C, size, size), mean 0
    and variance about 1: noise at several scales, each enlarged bilinearly and added."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(images, channels, size, size)
    scales = [cells for cells in (4, 8, 16, 32, 64, 128) if cells < size]
    for cells in scales:
        noise = torch.randn(images, channels, cells, cells, generator=generator)
        total += F.interpolate(noise, (size, size), mode="bilinear") * (4 / cells)
    return total / total.std()


def _normalised(pixels: np.ndarray) -> Tensor:
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def _cifar_pixels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Calibration and test images (n, 32, 32, 3) uint8, test labels; decoded once, then cached."""
    names = ("calibration", "test", "labels")
    if not CIFAR_CACHE.is_file():
        arrays = dict(zip(names, _decode_cifar(), strict=True))
        with atomic_path(CIFAR_CACHE) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
    arrays = read_arrays(CIFAR_CACHE, names)
    return arrays["calibration"], arrays["test"], arrays["labels"]


def _read_cifar() -> tuple[dict[str, bytes], list[str], list[str]]:
    """The JPEG files by name, and the names of the training and of the test images."""
    if not CIFAR_ARCHIVE.is_file():
        raise FileError(f"no CIFAR-10 archive: it belongs at {CIFAR_ARCHIVE}")
    files: dict[str, bytes] = {}
    with tarfile.open(CIFAR_ARCHIVE) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.name.endswith(".jpg") else None
            if content is not None:
                files[member.name] = content.read()
    train = sorted(name for name in files if "/train/" in name)
    return files, train, sorted(name for name in files if "/test/" in name)


def _decode_cifar() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    files, train, test = _read_cifar()
    drawn = np.random.default_rng(SEED).permutation(len(train))[:CALIBRATION_IMAGES]
    return _decoded(files, [train[i] for i in drawn]), _decoded(files, test), _cifar_labels(test)


def _cifar_labels(names: list[str]) -> np.ndarray:
    return np.array([CIFAR_CLASSES.index(name.split("/")[-2]) for name in names], np.uint8)


def _decoded(files: dict[str, bytes], names: list[str]) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(files[name])).convert("RGB")) for name in names]
    )
