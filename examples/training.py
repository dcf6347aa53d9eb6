"""What the three examples share: images that come with sepify, a plain training loop, options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sepify.demo.data import load_demo_data


@dataclass(frozen=True)
class Images:
    """Fashion-MNIST, (n, 1, 28, 28) in 0..1: the shipped test images, cut in two. A network of an
    example learns on the first part and is judged on the second, so that its figures are for
    showing how things are done, not for comparing with anybody's."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def load_images(count: int) -> Images:
    """The first `count` images: four in five to learn from, the rest to judge by."""
    data = load_demo_data()
    images, labels = data.images[:count] / 255, data.labels[:count]
    cut = count * 4 // 5
    return Images(images[:cut], labels[:cut], images[cut:], labels[cut:])


def train(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    epochs: int,
) -> None:
    """Adam, batches of 64, the same order every time; the model is left in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in torch.randperm(len(inputs), generator=generator).split(64):
            optimiser.zero_grad()
            value = loss(model(inputs[batch]), targets[batch])
            value.backward()
            optimiser.step()
            total += float(value.detach()) * len(batch)
        print(f"epoch {epoch} of {epochs}: loss {total / len(inputs):.4f}")
    model.eval()


def options(description: str) -> argparse.Namespace:
    """--images, --epochs, --rank and the folder to write to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", type=int, default=10_000, help="how many to use")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rank", type=int, default=2, help="separable terms a channel")
    parser.add_argument("-o", "--output", type=Path, default=Path("example-report"))
    return parser.parse_args()
