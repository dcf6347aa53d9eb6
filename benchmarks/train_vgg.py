"""Train the wide VGG-like network of the benchmarks on Fashion-MNIST's 60,000 training images.

    apt-get install dataset-fashion-mnist
    python benchmarks/train_vgg.py

Writes benchmarks/out/vgg.pt (a state_dict) and prints its top-1 on the whole test set. About a
quarter of an hour on one core; same seed, same weights. The state after each epoch is kept in
benchmarks/out/vgg.checkpoint.pt until the end, and an interrupted run goes on from there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Protocol

import torch
from networks import WideVgg
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from sepify.demo.train import augment, read_split
from sepify.judging.statistics import top1
from sepify.storage import atomic_path

VGG_FILE = Path(__file__).with_name("out") / "vgg.pt"
CHECKPOINT_FILE = VGG_FILE.with_name("vgg.checkpoint.pt")


def train(epochs: int, seed: int, batch: int = 128, peak_rate: float = 0.1) -> WideVgg:
    """SGD with Nesterov momentum, one-cycle rate, label smoothing 0.05, as the demo network."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pixels, targets = read_split("train")
    images = torch.from_numpy(pixels.copy()).float().unsqueeze(1)
    labels = torch.from_numpy(targets.copy()).long()
    settings = [epochs, seed, batch, peak_rate]
    network = WideVgg().to(memory_format=torch.channels_last)
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
        begun = _resume(settings, generator, network, optimiser, schedule)
        task = progress.add_task("training", total=epochs * steps, completed=begun * steps)
        for epoch in range(begun, epochs):
            order = torch.randperm(len(images), generator=generator)
            for step in range(steps):
                chosen = order[step * batch : (step + 1) * batch]
                x = augment(images[chosen], generator).contiguous(memory_format=torch.channels_last)
                loss = loss_of(network(x), labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                text = f"epoch {epoch + 1}/{epochs} loss {loss.item():.3f}"
                progress.update(task, advance=1, description=text)
            _keep(settings, epoch + 1, generator, network, optimiser, schedule)
            progress.console.print(text)
    return network.to(memory_format=torch.contiguous_format).eval()


class Stateful(Protocol):
    """Whatever can hand out its state and take it back."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take a state back."""


def _keep(settings: list[float], epochs: int, generator: torch.Generator, *parts: Stateful) -> None:
    state = [part.state_dict() for part in parts]
    kept = {
        "settings": settings,
        "epochs": epochs,
        "random": generator.get_state(),
        "parts": state,
    }
    with atomic_path(CHECKPOINT_FILE) as temporary:
        torch.save(kept, temporary)


def _resume(settings: list[float], generator: torch.Generator, *parts: Stateful) -> int:
    """Put back what a run with the same settings kept; the number of epochs that it had done."""
    if not CHECKPOINT_FILE.is_file():
        return 0
    kept = torch.load(CHECKPOINT_FILE, map_location="cpu", weights_only=True)
    if kept["settings"] != settings:
        return 0
    generator.set_state(kept["random"])
    for part, state in zip(parts, kept["parts"], strict=True):
        part.load_state_dict(state)
    return int(kept["epochs"])


def main() -> None:
    """Train, score on the whole test set, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    network = train(options.epochs, options.seed)
    with atomic_path(VGG_FILE) as temporary:
        torch.save(network.state_dict(), temporary)
    CHECKPOINT_FILE.unlink(missing_ok=True)
    pixels, targets = read_split("t10k")
    images = torch.from_numpy(pixels.copy()).float().unsqueeze(1)
    accuracy = top1(network, images, torch.from_numpy(targets.copy()).long())
    print(f"test top-1 {accuracy:.2%}; wrote {VGG_FILE}")


if __name__ == "__main__":
    main()
