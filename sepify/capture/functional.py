"""Recognises functional calls that a module could make, however they are spelled."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument

from sepify.graph.operators import CONVOLUTIONS, signature_name

CONSTANT_PREFIX = "_tensor_constant"  # torch.fx's name for a tensor that has none of its own

_CONV = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_TRANSPOSED = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}
_CONVOLUTION = {
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "transposed": False,
    "output_padding": 0,
    "groups": 1,
}
_BATCHNORM = {
    "running_mean": None,
    "running_var": None,
    "training": False,
    "momentum": 0.1,
    "eps": 1e-5,
    "cudnn_enabled": True,
}

_SIGNATURES: dict[str, dict[str, Any]] = {
    **{
        name: {"input": None, "weight": None, "bias": None, **_CONV}
        for name in ("conv1d", "conv2d", "conv3d", "_convolution_mode")
    },
    **{
        name: {"input": None, "weight": None, "bias": None, **_TRANSPOSED}
        for name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    },
    "convolution": {"input": None, "weight": None, "bias": None, **_CONVOLUTION},
    "_convolution": {
        **{"input": None, "weight": None, "bias": None, **_CONVOLUTION},
        **dict.fromkeys(("benchmark", "deterministic", "cudnn_enabled", "allow_tf32")),
    },
    "batch_norm": {"input": None, "weight": None, "bias": None, **_BATCHNORM},
    "F.batch_norm": {
        "input": None,
        **{"running_mean": None, "running_var": None, "weight": None, "bias": None},
        **{"training": False, "momentum": 0.1, "eps": 1e-5},
    },
    "linear": {"input": None, "weight": None, "bias": None},
    "dropout": {"input": None, "p": 0.5, "train": True},
}


_CONV_MODULES: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED_MODULES: dict[int, Callable[..., nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
_BATCHNORMS: dict[int, type[nn.modules.batchnorm._BatchNorm]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


@dataclass(frozen=True)
class Call:
    """A functional call, the stored tensors that it uses under the names that the module gives
    them, and how to make the module."""

    node: fx.Node
    kind: str  # "conv", "bn", "linear" or "dropout": the stem of an invented name
    tensors: dict[str, fx.Node]  # get_attr nodes
    settings: Hashable
    build: Callable[[Mapping[str, Tensor]], nn.Module]

    @property
    def input(self) -> Argument:
        """What the module is called on; read when needed, as earlier calls may be replaced."""
        return self.node.args[0] if self.node.args else self.node.kwargs["input"]

    @property
    def main(self) -> fx.Node | None:
        """The tensor that decides where the module lives; a dropout has none."""
        return next(iter(self.tensors.values()), None)


def recognise(node: fx.Node, ranks: Mapping[fx.Node, int]) -> Call | None:
    """The call that `node` makes; None if it is none of these, or its weights are computed.

    `ranks` has the dimensions of what a BatchNorm computes.
    """
    if node.op != "call_function":
        return None
    name = signature_name(node)
    if name in ("batch_norm", "F.batch_norm"):
        return batchnorm_call(node, ranks)
    recogniser = _RECOGNISERS.get(name)
    return None if recogniser is None else recogniser(node)


def conv_call(node: fx.Node) -> Call | None:
    """A convolution, transposed or not, of one to three dimensions with a stored weight; None for
    any other node."""
    found = _bind(node, CONVOLUTIONS)
    if found is None:
        return None
    tensors = _stored(found, "weight", "bias")
    transposed = found.get("transposed", signature_name(node).startswith("conv_transpose"))
    found = {"output_padding": 0, **found}
    geometry = [found[n] for n in ("stride", "padding", "dilation", "output_padding", "groups")]
    if tensors is None or "weight" not in tensors or not _plain([*geometry, transposed]):
        return None
    weight = _value(tensors["weight"])
    axes = 0 if weight is None else weight.dim() - 2
    kind = (_TRANSPOSED_MODULES if transposed else _CONV_MODULES).get(axes)
    if kind is None:
        return None
    padding = found["padding"]
    settings = {
        "stride": _tuple(found["stride"], axes),
        "padding": padding if isinstance(padding, str) else _tuple(padding, axes),
        "dilation": _tuple(found["dilation"], axes),
        "groups": found["groups"],
    }
    if transposed:
        settings["output_padding"] = _tuple(found["output_padding"], axes)

    def build(values: Mapping[str, Tensor]) -> nn.Module:
        first, second, *kernel = values["weight"].shape
        groups = found["groups"]
        ends = (first, second * groups) if transposed else (second * groups, first)
        conv: nn.Module = kind(
            *ends, tuple(kernel), **settings, bias="bias" in values, device="meta"
        )
        _adopt(conv, values)
        return conv

    return Call(node, "conv", tensors, (kind, *settings.values()), build)


def linear_call(node: fx.Node) -> Call | None:
    """A linear layer with a stored weight; None for any other node."""
    found = _bind(node, ("linear",))
    if found is None:
        return None
    tensors = _stored(found, "weight", "bias")
    if tensors is None or "weight" not in tensors:
        return None
    weight = _value(tensors["weight"])
    if weight is None or weight.dim() != 2:
        return None

    def build(values: Mapping[str, Tensor]) -> nn.Module:
        out_features, in_features = values["weight"].shape
        linear = nn.Linear(in_features, out_features, bias="bias" in values, device="meta")
        _adopt(linear, values)
        return linear

    return Call(node, "linear", tensors, (), build)


def batchnorm_call(node: fx.Node, ranks: Mapping[fx.Node, int]) -> Call | None:
    """A batch normalisation with stored statistics; None for any other node."""
    found = _bind(node, ("batch_norm", "F.batch_norm"))
    if found is None:
        return None
    names = ("running_mean", "running_var", "weight", "bias")
    tensors = _stored(found, *names)
    options = [found[name] for name in ("training", "momentum", "eps")]
    kind = _BATCHNORMS.get(ranks.get(node, 0))
    if tensors is None or kind is None or not _plain(options):
        return None
    if "running_mean" not in tensors or "running_var" not in tensors:
        return None
    if ("weight" in tensors) != ("bias" in tensors):
        return None
    training, momentum, eps = options

    def build(values: Mapping[str, Tensor]) -> nn.Module:
        mean = values["running_mean"]
        # 0.0 is how a cumulative average (momentum=None) is written in inference mode
        momentum_or_none = momentum if training or momentum else None
        # without tensors of its own, which would be initialised in vain
        norm = kind(len(mean), eps, momentum_or_none, affine=False, track_running_stats=False)
        norm.affine, norm.track_running_stats = "weight" in values, True
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=mean.device)
        _adopt(norm, values)
        return norm.train(training)

    return Call(node, "bn", tensors, (training, momentum, eps), build)


def dropout_call(node: fx.Node) -> Call | None:
    """A dropout, which as a module follows train() and eval(); None for any other node."""
    found = _bind(node, ("dropout",))
    if found is None or not _plain([found["p"], found["train"]]):
        return None
    probability, training = found["p"], found["train"]

    def build(_: Mapping[str, Tensor]) -> nn.Module:
        return nn.Dropout(probability).train(training)

    return Call(node, "dropout", {}, (probability, training), build)


_RECOGNISERS: dict[str, Callable[[fx.Node], Call | None]] = {
    **dict.fromkeys(CONVOLUTIONS, conv_call),
    "linear": linear_call,
    "dropout": dropout_call,
}


def _bind(node: fx.Node, names: Sequence[str]) -> dict[str, Any] | None:
    """The node's arguments by name, defaults filled in, if it calls one of these functions."""
    if node.op != "call_function":
        return None
    name = signature_name(node)
    if name not in names:
        return None
    bound = dict(_SIGNATURES[name])
    bound.update(zip(bound, node.args, strict=False))
    bound.update(node.kwargs)
    return bound if isinstance(bound["input"], fx.Node) else None


def _stored(bound: Mapping[str, Any], *names: str) -> dict[str, fx.Node] | None:
    """The get_attr nodes among these arguments; None if any of them is computed."""
    found = {name: bound[name] for name in names if bound[name] is not None}
    if all(isinstance(node, fx.Node) and node.op == "get_attr" for node in found.values()):
        return found
    return None


def _value(node: fx.Node) -> Tensor | None:
    owner = node.graph.owning_module
    assert owner is not None
    value: Any = owner
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value if isinstance(value, Tensor) else None


def _plain(values: Sequence[Any]) -> bool:
    """Whether no node is among the arguments: a module's settings cannot depend on the run."""
    flat = [item for v in values for item in (v if isinstance(v, (list, tuple)) else [v])]
    return all(isinstance(item, (int, float, str)) for item in flat)


def _tuple(value: Any, axes: int) -> tuple[int, ...]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(int(item) for item in (items * axes if len(items) == 1 else items))


def _adopt(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give the module these very tensors; a buffer used as a weight becomes a parameter without
    gradient."""
    for name, tensor in values.items():
        if name in module._buffers:
            module._buffers[name] = tensor
        elif isinstance(tensor, nn.Parameter):
            module.register_parameter(name, tensor)
        else:
            module.register_parameter(name, nn.Parameter(tensor, requires_grad=False))
