"""Read the feature part of open_nsfw from its ONNX file into plain torch modules."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sepify.errors import CaptureError


def load_features(path: Path) -> fx.GraphModule:
    """The convolutions of the network, up to the pooled features: (B, 3, 224, 224) BGR around
    (104, 117, 123) -> (B, 1024). Convolutions are named conv0, conv1, ... in execution order; their
    BatchNorms are folded into them already, in the file."""
    model = onnx.load(str(path))
    stored = {
        item.name: torch.tensor(numpy_helper.to_array(item)) for item in model.graph.initializer
    }
    root = nn.Module()
    graph = fx.Graph()
    values: dict[str, fx.Node] = {model.graph.input[0].name: graph.placeholder("x")}
    convolutions = 0
    last = values[model.graph.input[0].name]
    for node in model.graph.node:
        source = values.get(node.input[0])
        assert source is not None, f"{node.op_type} '{node.name}' reads no known value"
        if node.op_type == "Transpose":  # NHWC to NCHW: the input is given as NCHW here
            last = source
        elif node.op_type == "Conv":
            name = f"conv{convolutions}"
            convolutions += 1
            root.add_module(name, _convolution(node, stored))
            last = graph.call_module(name, (source,))
        elif node.op_type == "Relu":
            last = graph.call_function(F.relu, (source,))
        elif node.op_type == "Add":
            last = graph.call_function(torch.add, (source, values[node.input[1]]))
        elif node.op_type == "MaxPool":
            root.add_module("pool", _pooling(node))
            last = graph.call_module("pool", (source,))
        elif node.op_type == "AveragePool":  # over the whole 7x7 map; the classifier follows
            graph.output(graph.call_function(torch.mean, (source, (2, 3))))
            break
        else:
            raise CaptureError(f"open_nsfw: '{node.name}' is a {node.op_type}")
        values[node.output[0]] = last
    return fx.GraphModule(root, graph).eval().requires_grad_(False)


def _attributes(node: onnx.NodeProto) -> dict[str, list[int]]:
    return {item.name: list(item.ints) for item in node.attribute}


def _convolution(node: onnx.NodeProto, stored: dict[str, Tensor]) -> nn.Module:
    weight = stored[node.input[1]]
    options = _attributes(node)
    top, left, bottom, right = options.get("pads") or [0, 0, 0, 0]
    conv = nn.Conv2d(
        weight.shape[1],
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        stride=(options["strides"][0], options["strides"][1]),
        padding=(top, left),
        bias=len(node.input) > 2,
    )
    assert (top, left) == (bottom, right), f"'{node.name}' pads unevenly"
    conv.weight.data = weight.clone()
    if len(node.input) > 2:
        assert conv.bias is not None
        conv.bias.data = stored[node.input[2]].clone()
    return conv


def _pooling(node: onnx.NodeProto) -> nn.Module:
    options = _attributes(node)
    top, left, bottom, right = options.get("pads") or [0, 0, 0, 0]
    pad = nn.ConstantPad2d((left, right, top, bottom), float("-inf"))
    return nn.Sequential(pad, nn.MaxPool2d(options["kernel_shape"], options["strides"]))
