"""Draw the pictures of how-it-works.md from the demo network: python docs/draw_pictures.py.

Everything in the pictures is computed here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import nn

from sepify.capture import capture
from sepify.demo.data import MODEL_FILE, load_demo_data
from sepify.formats.torchscript_read import load_torchscript
from sepify.measuring.rank_curves import energy_lost

FOLDER = Path(__file__).with_name("pictures")
LAYER, CHANNEL, SHOWN = "blocks.2.conv1", 0, 8


def draw_terms(kernel: torch.Tensor) -> None:
    """One input channel's filters (N, kh*kw), and their sums of 1, 2 and 3 separable terms."""
    u, s, vh = torch.linalg.svd(kernel[:, CHANNEL].flatten(1), full_matrices=False)
    energy = s.square().cumsum(0) / s.square().sum()
    rows = [("the kernel", kernel[:, CHANNEL])]
    for rank in (1, 2, 3):
        made = (u[:, :rank] * s[:rank]) @ vh[:rank]
        label = f"rank {rank}: {energy[rank - 1]:.0%}"
        rows.append((label, made.reshape(kernel[:, CHANNEL].shape)))
    limit = float(kernel[:SHOWN, CHANNEL].abs().max())
    figure, axes = plt.subplots(len(rows), SHOWN, figsize=(7, 3.6), layout="constrained")
    for (label, filters), line in zip(rows, axes, strict=True):
        for place, image in zip(line, filters, strict=False):
            place.imshow(image, cmap="RdBu", vmin=-limit, vmax=limit)
            place.set(xticks=[], yticks=[])
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.savefig(FOLDER / "terms.png", dpi=110)


def draw_energy(layers: dict[str, torch.Tensor]) -> None:
    """Of every 3x3 convolution of the demo network, the energy that each rank keeps."""
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for name, weight in layers.items():
        kept = [100 * (1 - lost) for lost in energy_lost(weight, "dw-pw")]
        axes.plot(range(1, len(kept) + 1), kept, marker="o", markersize=3, label=name)
    axes.set(xlabel="rank", ylabel="energy of the kernel kept, %", ylim=(0, 102))
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(FOLDER / "energy.png", dpi=110)


def main() -> None:
    """Both pictures."""
    FOLDER.mkdir(exist_ok=True)
    model = load_torchscript(MODEL_FILE).module
    graph = capture(model, (load_demo_data().images[:1],)).graph_module
    draw_terms(graph.get_submodule(LAYER).weight.detach())
    layers = {
        name: module.weight.detach()
        for name, module in graph.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)
    }
    draw_energy(layers)


if __name__ == "__main__":
    main()
