"""The forms that a convolution can take at the multiply-adds of dw-pw at a rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.plans.chains import Bottleneck, Chain, Spatial
from sepify.plans.costs import unit_maps
from sepify.plans.form import Form
from sepify.plans.forms import Order, Separate, full_rank

Family = Literal["dw-pw", "pw-dw", "bottleneck", "spatial"]
# Sizes are whole, so a form may take so many times the multiply-adds that it is found for.
ABOUT = 1.05


def form_at_rank(
    family: Family, rank: int | None, convolution: Convolution, maps: Maps | None
) -> Form | None:
    """The form of `family` that costs as much as dw-pw at `rank` (None: at full rank), or, of an
    order, the one at that rank; None where the convolution cannot take it.

    Where map sizes are unknown, multiply-adds are compared for one output pixel.
    """
    return _MAKERS[family](rank, convolution, maps or unit_maps(convolution))


def forms_at_rank(rank: int, convolution: Convolution, maps: Maps) -> tuple[Form, ...]:
    """Those of every promising family that cost about as much as dw-pw at `rank`, dw-pw first."""
    target = form_at_rank("dw-pw", rank, convolution, maps)
    if target is None:
        return ()
    macs = target.cost(convolution, maps, bias=False).macs or 0
    found = [target]
    for family in FAMILIES:
        form = form_at_rank(family, rank, convolution, maps)
        if form is None or form in found:
            continue
        if isinstance(form, Chain) and not form.promising(convolution.kernel):
            continue
        if (form.cost(convolution, maps, bias=False).macs or 0) <= ABOUT * macs:
            found.append(form)
    return tuple(found)


def _in_order(order: Order) -> Callable[[int | None, Convolution, Maps], Form | None]:
    def make(rank: int | None, convolution: Convolution, maps: Maps) -> Form | None:
        if convolution.pointwise:
            return None
        highest = full_rank(convolution.kernel, order)
        return Separate(order, highest if rank is None else min(rank, highest))

    return make


def _of_kind(kind: type[Chain]) -> Callable[[int | None, Convolution, Maps], Form | None]:
    def make(rank: int | None, convolution: Convolution, maps: Maps) -> Form | None:
        if kind.unsuited(convolution.kernel) is not None:
            return None
        if rank is None:
            return kind(kind.exact_channels(convolution.kernel))
        wanted = _in_order("dw-pw")(rank, convolution, maps)
        assert wanted is not None, "what suits a chain with a window suits dw-pw"
        macs = wanted.cost(convolution, maps, bias=False).macs or 0
        return kind.within(macs, convolution, maps)

    return make


_MAKERS: dict[Family, Callable[[int | None, Convolution, Maps], Form | None]] = {
    "dw-pw": _in_order("dw-pw"),
    "pw-dw": _in_order("pw-dw"),
    "bottleneck": _of_kind(Bottleneck),
    "spatial": _of_kind(Spatial),
}
FAMILIES: tuple[Family, ...] = tuple(_MAKERS)
