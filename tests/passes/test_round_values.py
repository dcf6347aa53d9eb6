"""Quantise and dequantise nodes behind chosen values."""

from __future__ import annotations

import torch
from nets import Plain, images, rewritten, seeded
from torch import fx

from sepify.graph.grids import Grid
from sepify.passes.round_values import RoundValues

UNEVEN = Grid(torch.linspace(0.01, 0.05, 8), torch.full((8,), 128))
EVEN = Grid(torch.full((8,), 0.02), torch.zeros(8, dtype=torch.long))


def targets(graph_module: fx.GraphModule) -> list[str]:
    names = [str(node.target) for node in graph_module.graph.nodes if node.op == "call_function"]
    return [name.split(".")[1] for name in names if name.startswith("quantized_decomposed")]


def test_readers_read_rounded_values():
    given = fx.symbolic_trace(seeded(Plain()))
    relu = next(node for node in given.graph.nodes if node.name == "relu")
    rounded = rewritten(given, RoundValues({relu.name: UNEVEN}))
    assert targets(rounded) == ["quantize_per_channel", "dequantize_per_channel"]
    x = images()
    value = UNEVEN.round(torch.relu(given.bn1(given.conv1(x))))
    wanted = given.head(torch.relu(given.bn2(given.conv2(value))).mean((2, 3)))
    torch.testing.assert_close(rounded(x), wanted)
    assert rounded.get_buffer("quantised_values.relu.scale").tolist() == UNEVEN.scales.tolist()


def test_one_scale_for_all_channels_needs_no_buffers():
    given = fx.symbolic_trace(seeded(Plain()))
    rounded = rewritten(given, RoundValues({"relu": EVEN}))
    assert targets(rounded) == ["quantize_per_tensor", "dequantize_per_tensor"]
    assert list(rounded.state_dict()) == list(given.state_dict())


def test_a_name_that_is_no_node_is_left_alone():
    result = RoundValues({"nothing": EVEN}).apply(fx.symbolic_trace(seeded(Plain())))
    assert not result.changed
    assert list(result.left_alone) == ["nothing"]
