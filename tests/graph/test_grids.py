"""Grids give bit for bit what torch's own operators give."""

from __future__ import annotations

import pickle

import torch
from torch import fx, nn

from sepify.graph.grids import BufferTracer, Grid, RoundedWeights, quantising_nodes

OPS = torch.ops.quantized_decomposed


def test_rounding_is_quantising_and_dequantising():
    torch.manual_seed(0)
    values = 3 * torch.randn(4, 6, 5, 5)
    grid = Grid(torch.rand(6) / 20 + 0.001, torch.tensor([0, 128, 128, 17, 255, 3]))
    bounds = (1, 0, 255, torch.uint8)
    codes = OPS.quantize_per_channel(values, grid.scales, grid.zero_points, *bounds)
    back = OPS.dequantize_per_channel(codes, grid.scales, grid.zero_points, *bounds)
    assert torch.equal(grid.round(values), back)
    assert torch.equal(grid.round(back), back)


def test_columns_take_the_inputs_scales():
    codes = torch.tensor([[3, -7], [1, 2]], dtype=torch.int8)
    weights = RoundedWeights(codes, torch.tensor([0.5, 2.0]), None, 4)
    given = weights.in_float(torch.tensor([0.25, 4.0]))
    assert given.tolist() == [[6.0, -0.875], [8.0, 1.0]]


def test_buffers_stay_in_a_graph_that_is_unpickled():
    module = nn.Module()
    module.register_buffer("weight", torch.ones(3, dtype=torch.int8))
    graph = fx.Graph(tracer_cls=BufferTracer)
    scaled = graph.call_function(
        OPS.dequantize_per_tensor.default,
        (graph.get_attr("weight"), 0.5, 0, -127, 127, torch.int8),
    )
    graph.output(graph.call_function(torch.add, (graph.placeholder("x"), scaled)))
    again = pickle.loads(pickle.dumps(fx.GraphModule(module, graph)))
    assert len(list(quantising_nodes(again.graph))) == 1
    assert again(torch.zeros(3)).tolist() == [0.5] * 3
