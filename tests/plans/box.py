"""A form that is not in sepify: what docs/how-to/add-a-form.md shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sepify.factorize.factors import SeparableFactors
from sepify.factorize.solvers import SOLVERS, Solver
from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.plans.costs import Cost
from sepify.plans.form import Form
from sepify.plans.forms import FORMS, Separate
from sepify.plans.styles import Style


# --- the form, as it would stand in sepify/plans/forms.py
@dataclass(frozen=True)
class Box(Form):
    """Every channel is blurred by a constant `height`, then mixed: dw-pw of rank 1 with a depthwise
    filter that is the same number everywhere."""

    height: float = 1.0

    kind: ClassVar[str] = "box"

    @property
    def words(self) -> str:
        """ "box of height 1"."""
        return f"box of height {self.height:g}"

    @property
    def parts(self) -> tuple[str, ...]:
        """As for dw-pw."""
        return Separate("dw-pw", 1).parts

    def cost(
        self, convolution: Convolution, maps: Maps | None, *, bias: bool, style: Style = "linear"
    ) -> Cost:
        """As for dw-pw at rank 1."""
        return Separate("dw-pw", 1).cost(convolution, maps, bias=bias, style=style)

    def stand_in(self, conv: nn.Conv2d) -> nn.Sequential:
        """As for dw-pw at rank 1."""
        return Separate("dw-pw", 1).stand_in(conv)


# --- its solver, as it would stand in sepify/factorize/box.py
def factorize_box(form: Box, weight: Tensor, bias: Tensor | None) -> SeparableFactors:
    """The pointwise weights are the means of the window, over the height of the box."""
    in_channels, kh, kw = weight.shape[1:]
    depthwise = torch.full((in_channels, 1, kh, kw), form.height).to(weight)
    pointwise = weight.detach().mean((2, 3), keepdim=True) / form.height
    return SeparableFactors(
        "dw-pw", 1, depthwise, pointwise, None if bias is None else bias.detach().clone()
    )


def box_error(form: Box, weight: Tensor) -> float:
    """The share of the kernel that varies within the window."""
    lost = weight.detach() - factorize_box(form, weight, None).kernel()
    return float(lost.square().sum() / weight.detach().square().sum())


# --- its rows
def add_box() -> None:
    FORMS[Box.kind] = Box
    SOLVERS[Box] = Solver(factorize_box, error=box_error)
