"""What a value meets on its way through a graph: normalisation, activations, other weights."""

from __future__ import annotations

from typing import Literal

from torch import fx, nn

from sepify.graph.modules import called_module

Kind = Literal["norm", "activation", "weights", "addition", "output", "unknown", "other"]

_ACTIVATIONS = frozenset(
    {
        *("relu", "relu_", "relu6", "leaky_relu", "prelu", "elu", "selu", "celu", "gelu", "silu"),
        *("mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "softplus", "softmax"),
        *("log_softmax", "clamp", "clip", "clamp_min", "glu", "logsigmoid", "maximum"),
    }
)
_NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "local_response_norm")
_WEIGHTS = ("conv1d", "conv2d", "conv3d", "convolution", "linear", "matmul", "bmm", "addmm")
_ADDITIONS = frozenset({"add", "iadd", "add_", "sub", "isub", "sub_"})
_HARMLESS = ("pooling", "dropout", "flatten", "padding", "upsampling", "pixelshuffle", "linear")


def meets(graph_module: fx.GraphModule, start: fx.Node, wanted: set[Kind]) -> set[Kind]:
    """What the value of `start` meets first, on every way that it takes: of the kinds in `wanted`,
    "weights" (of another convolution or linear layer), "output" and "unknown" (a module whose
    insides are not known)."""
    stops = {*wanted, "weights", "output", "unknown"}
    met: set[Kind] = set()
    left, seen = list(start.users), set(start.users)
    while left:
        node = left.pop()
        kind = _kind(graph_module, node)
        if kind in stops:
            met.add(kind)
            continue
        new = [user for user in node.users if user not in seen]
        seen.update(new)
        left += new
    return met


def _kind(graph_module: fx.GraphModule, node: fx.Node) -> Kind:
    if node.op == "output":
        return "output"
    module = called_module(graph_module, node)
    if module is not None:
        return _kind_of_module(module)
    packet = getattr(node.target, "overloadpacket", node.target)
    name = packet if isinstance(packet, str) else getattr(packet, "__name__", "")
    if name in _ACTIVATIONS:
        return "activation"
    if name in _ADDITIONS:
        return "addition"
    if any(part in name for part in _NORMS):
        return "norm"
    return "weights" if any(part in name for part in _WEIGHTS) else "other"


def _kind_of_module(module: nn.Module) -> Kind:
    home = type(module).__module__.rpartition(".")[2]
    if home in ("batchnorm", "normalization", "instancenorm"):
        return "norm"
    if home == "activation":
        return "activation"
    if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
        return "weights"
    return "other" if home in _HARMLESS else "unknown"
