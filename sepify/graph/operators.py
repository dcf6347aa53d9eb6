"""The operators that graphs call: one name for all spellings, and one table of their kinds."""

from __future__ import annotations

import operator
from typing import Any, Literal

import torch
from torch import fx, nn

Kind = Literal[
    "convolution",  # with weights
    "product",  # of matrices: linear layers and the like
    "norm",
    "activation",  # element by element
    "gate",  # a nonlinearity that reads several values: softmax, GLU
    "addition",
    "view",  # may give out the very memory that it was given
]

_KINDS: dict[Kind, tuple[str, ...]] = {
    "convolution": (
        *("conv1d", "conv2d", "conv3d", "_convolution_mode", "convolution", "_convolution"),
        *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    ),
    "product": (
        *("linear", "bilinear", "matmul", "mm", "bmm", "addmm", "baddbmm", "addbmm", "mv"),
        *("addmv",),
    ),
    "norm": (
        *("batch_norm", "native_batch_norm", "_native_batch_norm_legit", "layer_norm"),
        *("_native_batch_norm_legit_no_training", "native_layer_norm", "group_norm"),
        *("native_group_norm", "instance_norm", "local_response_norm", "rms_norm"),
    ),
    "activation": (
        *("relu", "relu6", "leaky_relu", "rrelu", "prelu", "elu", "selu", "celu", "gelu", "silu"),
        *("mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "softplus"),
        *("logsigmoid", "softsign", "hardshrink", "softshrink", "tanhshrink", "threshold"),
        *("clamp", "clip", "clamp_min", "clamp_max"),
    ),
    "gate": ("softmax", "log_softmax", "softmin", "glu", "maximum"),
    "addition": ("add", "iadd", "sub", "isub"),
    # One too many here costs a copy, one too few is wrong.
    "view": (
        *("getitem", "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel"),
        *("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "getattr"),
        *("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk"),
        *("unsafe_split", "narrow", "select", "diagonal", "unfold", "as_strided", "alias"),
        *("detach", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "contiguous"),
        *("real", "imag", "view_as_real", "view_as_complex", "to", "type", "type_as", "float"),
        *("half", "double", "bfloat16", "cpu", "dropout", "dropout1d", "dropout2d", "dropout3d"),
        *("alpha_dropout", "Identity", "Flatten", "Unflatten", "Dropout", "Dropout1d"),
        *("Dropout2d", "Dropout3d"),
    ),
}

KINDS: dict[str, Kind] = {name: kind for kind, names in _KINDS.items() for name in names}
"""The kind of an operator, by the name that `operator_name` gives it."""

CONVOLUTIONS = _KINDS["convolution"]

# A module has the kind of the file of torch.nn that it comes from.
_HOME_KINDS: dict[str, Kind | Literal["other"]] = {
    **dict.fromkeys(("batchnorm", "normalization", "instancenorm"), "norm"),
    "activation": "activation",
    **dict.fromkeys(("pooling", "dropout", "flatten", "padding", "upsampling"), "other"),
    **dict.fromkeys(("pixelshuffle", "linear"), "other"),
}
_CLASS_KINDS: dict[type[nn.Module], Kind] = {
    nn.Linear: "product",
    nn.MultiheadAttention: "product",
    **dict.fromkeys((nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU), "gate"),
}

OUT_OF_PLACE_OPERATORS: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}
"""Python's own operators that overwrite their operand, and those that do not."""

# Functions that take the same arguments in the same order share a name here.
_SIGNATURES: dict[Any, str] = {
    torch.conv1d: "conv1d",
    torch.conv2d: "conv2d",
    torch.conv3d: "conv3d",
    torch.conv_transpose1d: "conv_transpose1d",
    torch.conv_transpose2d: "conv_transpose2d",
    torch.conv_transpose3d: "conv_transpose3d",
    torch.convolution: "convolution",
    torch._convolution: "_convolution",
    torch._convolution_mode: "_convolution_mode",
    torch.batch_norm: "batch_norm",
    nn.functional.batch_norm: "F.batch_norm",
    torch._C._nn.linear: "linear",
    torch.dropout: "dropout",
}


def operator_name(target: Any) -> str:
    """The name of what a node calls: `relu` for F.relu, aten.relu.default and the method; "" for
    what has none."""
    packet = getattr(target, "overloadpacket", target)
    return packet if isinstance(packet, str) else getattr(packet, "__name__", "")


def is_in_place_name(name: str) -> bool:
    """Whether it is torch's name of an operator that overwrites its operand: relu_, add_."""
    return name.endswith("_") and not name.endswith("__") and not name.startswith("_")


def operator_kind(target: Any) -> Kind | None:
    """The kind of a function or method, in place or not; None if it is none of the table's."""
    name = operator_name(target)
    return KINDS.get(name[:-1] if is_in_place_name(name) else name)


def module_kind(module: nn.Module) -> Kind | Literal["other", "unknown"]:
    """The kind of a module: "other" for torch's own of no kind in the table, "unknown" for what
    has insides of its own."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    for cls, kind in _CLASS_KINDS.items():
        if isinstance(module, cls):
            return kind
    package, _, home = type(module).__module__.rpartition(".")
    return _HOME_KINDS.get(home, "unknown") if package == "torch.nn.modules" else "unknown"


def signature_name(node: fx.Node) -> str:
    """The name of the function that a node calls, one for all that take the same arguments; "" if
    it is neither aten's nor in the table."""
    return _SIGNATURES.get(node.target) or _aten_name(node.target)


def _aten_name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", target)
    if isinstance(packet, torch._ops.OpOverloadPacket):
        qualified: str = packet._qualified_op_name
        return qualified.removeprefix("aten::")
    return ""
