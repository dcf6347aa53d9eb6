"""The forms that a convolution can take, and the orders and ranks of the separable one."""

from __future__ import annotations

from typing import Literal

Order = Literal["dw-pw", "pw-dw"]


ORDERS: tuple[Order, ...] = ("dw-pw", "pw-dw")


def full_rank(kernel: tuple[int, ...], order: Order) -> int:
    """The rank at which a kernel (N, M, kh, kw) is reproduced exactly: min(N, kh*kw) for dw-pw,
    min(M, kh*kw) for pw-dw (the ranks of the matrices that are factorised)."""
    out_channels, in_channels, kh, kw = kernel
    channels = out_channels if order == "dw-pw" else in_channels
    return min(channels, kh * kw)
