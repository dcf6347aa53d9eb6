"""Integer grids: the values that an activation or a weight may take once it is quantised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

# registers torch.ops.quantized_decomposed
from torch.ao.quantization.fx import _decomposed

WeightBits = Literal[8, 4]
NAMESPACE = _decomposed.quantized_decomposed_lib.ns
LARGEST_WEIGHT: dict[WeightBits, int] = {8: 127, 4: 7}  # symmetric: one code is never used


@dataclass(frozen=True, eq=False)
class Grid:
    """The u8 grid of an activation: value = (code - zero_points[c]) * scales[c] for channel c.

    Attributes:
        scales: (C,) float32, positive.
        zero_points: (C,) int64, the codes of zero.
        axis: the dimension of the channels.
    """

    scales: Tensor
    zero_points: Tensor
    axis: int = 1

    LOW = 0
    HIGH = 255

    def round(self, values: Tensor) -> Tensor:
        """The nearest values on the grid: bit for bit what `quantize_per_channel` followed by
        `dequantize_per_channel` gives."""
        scales, zeros = self._shaped(self.scales, values), self._shaped(self.zero_points, values)
        codes = torch.round(values * (1.0 / scales)).add_(zeros).clamp_(self.LOW, self.HIGH)
        return codes.sub_(zeros).mul_(scales)

    def to(self, device: torch.device) -> Grid:
        """The same grid on a device."""
        return Grid(self.scales.to(device), self.zero_points.to(device), self.axis)

    def _shaped(self, each: Tensor, values: Tensor) -> Tensor:
        shape = [1] * values.dim()
        shape[self.axis] = -1
        return each.view(shape)


@dataclass(frozen=True, eq=False)
class RoundedWeights:
    """A layer's weights as integers, in units of its input's steps and of its rows' scales.

    With s the input's scale of each channel, the float weights are codes * scales / s, with scales
    along the rows and s along the columns.

    Attributes:
        codes: int8, of the shape of the layer's weight.
        scales: (N,) float32, one for each output channel.
        bias: (N,) float32, or None.
        bits: 8 or 4.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None
    bits: WeightBits

    def in_float(self, columns: Tensor) -> Tensor:
        """The float weights behind inputs whose scales, broadcastable to the weight's shape, are
        `columns`."""
        rows = self.scales.view(-1, *[1] * (self.codes.dim() - 1))
        return self.codes * rows / columns


class BufferTracer(fx.Tracer):
    """The tracer of graphs that compute on buffers: what is done to integer weights stays in the
    graph when a GraphModule is unpickled, which fx does by tracing it again."""

    proxy_buffer_attributes = True


def quantising_nodes(graph: fx.Graph) -> Iterator[fx.Node]:
    """The nodes that quantise or dequantise, by torch's own operators."""
    for node in graph.nodes:
        packet = getattr(node.target, "overloadpacket", node.target)
        name = getattr(packet, "_qualified_op_name", "")
        if node.op == "call_function" and name.startswith(f"{NAMESPACE}::"):
            yield node
