"""What a convolution costs, as it is and separated: multiply-adds for one image, and parameters.

Formulas from MobileNets (Howard et al. 2017, section 3.1), times the rank r, with the stride where
it falls: a pointwise convolution that comes first runs at the resolution of the input.
"""

from __future__ import annotations

from fractions import Fraction

from sepify.graph.convolutions import Convolution
from sepify.graph.maps import Maps
from sepify.plans.forms import Order
from sepify.plans.plan import Cost, Style


def standard_cost(convolution: Convolution, maps: Maps | None) -> Cost:
    """D_K*D_K*M*N*D_F*D_F multiply-adds (MobileNets, section 3.1), D_F being the size of the map
    that is written, or of the one that is read by a transposed convolution; None without known
    maps. Bytes: the input read, the output written and the weights read, once each."""
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


def separable_cost(
    convolution: Convolution,
    maps: Maps | None,
    order: Order,
    rank: int,
    bias: bool,
    style: Style = "linear",
) -> Cost:
    """r * (D_K*D_K*M + M*N) * D_F*D_F for dw-pw (section 3.1, times r); for pw-dw the M*N*r part
    at the size of the map that is read. The bias adds N parameters and no multiply-adds, BatchNorm
    between the two, for a style that has it, two for each of its maps. Bytes as for the standard
    one, and the map between the two written and read."""
    out_channels, in_channels, kh, kw = convolution.kernel
    filtered = in_channels if order == "dw-pw" else out_channels
    depthwise = rank * filtered * kh * kw
    pointwise = rank * in_channels * out_channels
    params = depthwise + pointwise + (out_channels if bias else 0)
    if style != "linear":
        params += 2 * rank * filtered
    if maps is None:
        return Cost(None, params)
    mixed_at = maps.written if order == "dw-pw" else maps.read
    ends = in_channels * maps.read + out_channels * maps.written
    between = 2 * rank * filtered * mixed_at
    assert convolution.module is not None
    moved = int((ends + between + params) * convolution.module.weight.element_size())
    return Cost(int(depthwise * maps.written + pointwise * mixed_at), params, moved)


def unit_maps(convolution: Convolution) -> Maps:
    """Maps of one output pixel, for comparing costs where no map size is known: a stride of s by t
    reads s*t pixels for each that it writes."""
    assert convolution.module is not None
    vertical, horizontal = convolution.module.stride
    return Maps(Fraction(vertical * horizontal), Fraction(1))
