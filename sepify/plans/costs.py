"""What a layer costs: multiply-adds for one image, parameters, bytes moved and seconds.

What a form of a convolution costs is said by the form (`sepify/plans/forms.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from sepify.errors import PlanError
from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps


@dataclass(frozen=True)
class Cost:
    """What a layer costs: multiply-adds for one image (None where its map size is unknown),
    parameters, bias included, predicted bytes moved for one image (None likewise), and seconds for
    one image where a latency table was measured."""

    macs: int | None
    params: int
    moved: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        require_numbers("a cost", vars(self))


def require_numbers(where: str, values: Mapping[str, object]) -> None:
    """Raise PlanError for a value that is neither None nor a finite number."""
    for name, value in values.items():
        finite = math.isfinite(value) if isinstance(value, float) else type(value) is int
        if value is not None and not finite:
            raise PlanError(f"{where}: {name} is {value!r}, not a finite number")


def standard_cost(convolution: Convolution, maps: Maps | None) -> Cost:
    """D_K*D_K*M*N*D_F*D_F multiply-adds (Howard et al. 2017, MobileNets, section 3.1), D_F being
    the size of the map that is written, or of the one that is read by a transposed convolution;
    None without known maps. Bytes: the input read, the output written and the weights read, once
    each."""
    if not convolution.kernel or maps is None or convolution.module is None:
        return Cost(None, convolution.params)
    per_pixel = 1
    for extent in convolution.kernel:
        per_pixel *= extent
    module = convolution.module
    values = module.in_channels * maps.read + module.out_channels * maps.written
    moved = int((values + convolution.params) * module.weight.element_size())
    pixels = maps.read if module.transposed else maps.written
    return Cost(int(per_pixel * pixels), convolution.params, moved)


def unit_maps(convolution: Convolution) -> Maps:
    """Maps of one output pixel, for comparing costs where no map size is known: a stride of s by t
    reads s*t pixels for each that it writes."""
    assert convolution.module is not None
    vertical, horizontal = convolution.module.stride
    return Maps(Fraction(vertical * horizontal), Fraction(1))
