"""The kinds of kernels: adding one is a file beside this one, and a line here."""

from __future__ import annotations

from typing import Any

from sepify.compiling.kernels.dense import DENSE
from sepify.compiling.kernels.depthwise import DEPTHWISE
from sepify.compiling.kernels.grouped import GROUPED
from sepify.compiling.kernels.kind import Kind, Workload
from sepify.compiling.kernels.linear import LINEAR
from sepify.compiling.kernels.pooled import POOLED
from sepify.compiling.kernels.pw_dw import PW_DW
from sepify.compiling.kernels.separable import SEPARABLE
from sepify.compiling.kernels.shapes import Conv, Epilogue, Window, pair

KINDS: tuple[Kind, ...] = (DENSE, POOLED, DEPTHWISE, GROUPED, LINEAR, PW_DW, SEPARABLE)


def find_kind(recorded: str, joined: bool) -> Kind:
    """The kind that records call so, of a workload that has another layer `joined` to it or not.

    Raises ValueError if there is none.
    """
    found = [kind for kind in KINDS if recorded == (kind.recorded_as or kind.name)]
    if not found:
        raise ValueError(f"no kind of kernel: {recorded}")
    # a convolution that is pooled, too, is recorded as dense
    return next((kind for kind in found if bool(kind.recorded_as) == joined), found[0])


def read_workload(value: dict[str, Any]) -> Workload:
    """A workload from what `key` holds. Raises KeyError, TypeError or ValueError if it is none."""
    then = value["then"]
    return Workload(
        kind=find_kind(value["kind"], then is not None),
        conv=_read_conv(value["conv"]),
        epilogue=_read_epilogue(value["epilogue"]),
        blocked=bool(value["blocked"]),
        rank=int(value["rank"]),
        outputs=int(value["outputs"]),
        middle=_read_epilogue(value["middle"]),
        then=None if then is None else _read_conv(then),
    )


def _read_conv(value: dict[str, Any]) -> Conv:
    extents = {name: int(extent) for name, extent in value.items() if name != "window"}
    window = value["window"]
    top, left, bottom, right = (int(n) for n in window["padding"])
    read = Window(
        pair(window["kernel"]),
        pair(window["stride"]),
        (top, left, bottom, right),
        pair(window["dilation"]),
    )
    return Conv(**extents, window=read)


def _read_epilogue(value: dict[str, Any]) -> Epilogue:
    clip = value["clip"]
    bounds = None if clip is None else (float(clip[0]), float(clip[1]))
    return Epilogue(bool(value["residual"]), bounds)
