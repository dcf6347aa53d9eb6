"""Make what the package ships: the data file and the trained demo network.

    apt-get install dataset-fashion-mnist
    python -m sepify.demo.train

Reads Debian's copy of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, Expat licence), trains on all
60,000 training images, scores the whole test set, and writes `demo/fashion-mnist.npz` and
`demo/resnet.pt` beside this file. About half an hour on one core.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from sepify.demo.data import DATA_FILE, MODEL_FILE
from sepify.demo.network import DemoResNet
from sepify.errors import FileError
from sepify.formats.torchscript_write import save_torchscript
from sepify.judging.statistics import top1
from sepify.storage import atomic_path

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION_IMAGES = 2_000


def read_idx(name: str, offset: int, folder: Path = DEBIAN_FOLDER) -> np.ndarray:
    """The bytes of one gzipped IDX file behind its header, as a flat uint8 array."""
    path = folder / name
    if not path.is_file():
        raise FileError(f"no file {path}: install Debian's package dataset-fashion-mnist")
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)


def read_split(split: str, folder: Path = DEBIAN_FOLDER) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 28, 28) uint8 and labels (n,) uint8 of "train" or "t10k"."""
    images = read_idx(f"{split}-images-idx3-ubyte.gz", 16, folder).reshape(-1, 28, 28)
    return images, read_idx(f"{split}-labels-idx1-ubyte.gz", 8, folder)


def write_data(folder: Path = DEBIAN_FOLDER, path: Path = DATA_FILE) -> None:
    """The shipped file: all test images and labels, and the first 2,000 training images."""
    train, _ = read_split("train", folder)
    test, labels = read_split("t10k", folder)
    calibration = train[:CALIBRATION_IMAGES]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, calibration=calibration, test=test, labels=labels)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images and shift the batch by up to 2 pixels. (B, 1, 28, 28) in, out."""
    mirror = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    images = torch.where(mirror, images.flip(3), images)
    dy, dx = torch.randint(0, 5, (2,), generator=generator).tolist()
    return nn.functional.pad(images, (2, 2, 2, 2))[:, :, dy : dy + 28, dx : dx + 28]


def train(epochs: int, seed: int, batch: int = 128, peak_rate: float = 0.1) -> DemoResNet:
    """SGD with Nesterov momentum, one-cycle rate, label smoothing 0.05; same seed, same network."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pixels, targets = read_split("train")
    images = torch.from_numpy(pixels.copy()).float().unsqueeze(1)
    labels = torch.from_numpy(targets.copy()).long()
    network = DemoResNet()
    steps = len(images) // batch
    optimiser = torch.optim.SGD(
        network.parameters(), peak_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, peak_rate, total_steps=epochs * steps, pct_start=0.2
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=epochs * steps)
        for epoch in range(epochs):
            order = torch.randperm(len(images), generator=generator)
            for step in range(steps):
                chosen = order[step * batch : (step + 1) * batch]
                loss = loss_of(network(augment(images[chosen], generator)), labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                text = f"epoch {epoch + 1}/{epochs} loss {loss.item():.3f}"
                progress.update(task, advance=1, description=text)
    return network.eval()


def main() -> None:
    """Write the data file, train, score on the whole test set, save as TorchScript."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_data()
    network = train(options.epochs, options.seed)
    pixels, targets = read_split("t10k")
    images = torch.from_numpy(pixels.copy()).float().unsqueeze(1)
    labels = torch.from_numpy(targets.copy()).long()
    accuracy = top1(network, images, labels)
    example = images[:2]
    save_torchscript(torch.jit.trace(network, example), MODEL_FILE, input_shapes=((1, 1, 28, 28),))
    print(f"test top-1 {accuracy:.2%}; wrote {DATA_FILE} and {MODEL_FILE}")


if __name__ == "__main__":
    main()
