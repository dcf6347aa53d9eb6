"""Convert one network on the CPU and on the second device, in several ways, and print as JSON how
far the weights are apart and where they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import torch
from second_device import NAME, begin
from torch import Tensor, nn

import sepify
from sepify.calibration.refine import Refinement

IMAGES = torch.randn(320, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Move = Callable[["Halves"], "Halves"]


class Halves(nn.Module):
    """Two halves that may be on two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.back = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 4)."""
        return self.back(self.front(x).to(self.back[0].weight.device))


def there(network: Halves) -> Halves:
    """All of it on the second device."""
    return network.to(NAME)


def halfway(network: Halves) -> Halves:
    """Its second half there."""
    network.back.to(NAME)
    return network


def compared(move: Move, convert: Callable[..., nn.Module]) -> dict[str, object]:
    """The largest difference to the weights that the CPU comes to, and the devices."""
    weights = []
    for where in (lambda network: network, move):
        torch.manual_seed(0)
        weights.append(
            convert(where(Halves().eval()), solver=sepify.Solver(method="svd")).state_dict()
        )
    here, other = weights
    apart = [float((here[k].double() - other[k].cpu().double()).abs().max()) for k in here]
    return {"apart": max(apart), "devices": sorted({str(x.device) for x in other.values()})}


def mixed() -> str:
    """What the device says to a tensor of the CPU."""
    try:
        torch.ones(2).to(NAME) + torch.ones(2)
    except RuntimeError as error:
        return str(error)
    return "nothing"


def main() -> None:
    """All cases."""
    begin()
    convert = partial(
        sepify.convert, calibration=IMAGES, solver=sepify.Solver(refine=Refinement(steps=20))
    )
    labelled = (IMAGES[:256], torch.arange(256) % 4)
    ways: dict[str, Callable[..., nn.Module]] = {
        "from weights": partial(
            sepify.convert, rank=1, solver=sepify.Solver(method="svd"), example_inputs=IMAGES[:1]
        ),
        "svd, BatchNorm re-estimated": partial(
            sepify.convert, calibration=IMAGES, rank=1, solver=sepify.Solver(method="svd")
        ),
        "least squares, refined": partial(convert, rank=1),
        "pw-dw": partial(convert, rank=2, architecture=sepify.Architecture(form="pw-dw")),
        "on maps": partial(
            convert,
            rank=2,
            solver=sepify.Solver(refine=Refinement(steps=20), memory=200_000),
        ),
        "mobilenet": partial(convert, rank=1, architecture=sepify.Architecture(style="mobilenet")),
        "planned": partial(convert, budget=sepify.Budget(macs=0.85)),
        "promised": partial(convert, budget=sepify.Budget(accuracy_drop=5, labelled=labelled)),
        "thinned": partial(convert, rank=1, architecture=sepify.Architecture(width=0.5)),
    }
    found: dict[str, object] = {name: compared(there, way) for name, way in ways.items()}
    found["on two devices"] = compared(halfway, ways["least squares, refined"])
    print(json.dumps({"mixed": mixed(), "cases": found}))


if __name__ == "__main__":
    main()
