"""MACs and loss of each rank of a layer: the curves behind the report's table."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from sepify.capture import capture
from sepify.errors import CaptureError
from sepify.graph.convolutions import Convolution, survey
from sepify.graph.maps import Maps, measure_maps
from sepify.graph.running import Inputs
from sepify.planning.candidates import Measurements
from sepify.plans.costs import standard_cost
from sepify.plans.forms import ORDERS, Order, Separate, full_rank
from sepify.report.model import RankPoint

HIGHEST = 16  # larger windows have full ranks up to their area; nobody would go there
NOT_JUDGED: tuple[float | None, bool] = (None, False)


def rank_curves(
    model: nn.Module, inputs: Inputs, measurements: Measurements | None
) -> dict[str, tuple[RankPoint, ...]]:
    """For each convolution that can be separated, the orders and ranks that would cost fewer
    multiply-adds than it does: those multiply-adds, the share of the kernel's energy that the best
    approximation of its weights loses, and the damage that planning measured or estimated.

    Empty where the model cannot be captured.
    """
    try:
        graph = model if isinstance(model, fx.GraphModule) else capture(model, inputs).graph_module
    except CaptureError:
        return {}
    maps = measure_maps(graph, inputs)
    damages = {
        (name, candidate.form): (candidate.damage, candidate.measured)
        for layer in (measurements.layers if measurements else ())
        for candidate in layer.candidates
        for name in layer.names
    }
    curves = {}
    for convolution in survey(graph):
        module, at = convolution.module, maps.get(convolution.name)
        if convolution.obstacle is not None or convolution.pointwise:
            continue
        if module is not None and at is not None:
            curves[convolution.name] = tuple(
                RankPoint(
                    order,
                    rank,
                    macs,
                    lost,
                    *damages.get((convolution.name, Separate(order, rank)), NOT_JUDGED),
                )
                for order in ORDERS
                for rank, macs, lost in _curve(convolution, module.weight, at, order)
            )
    return curves


def _curve(
    convolution: Convolution, weight: Tensor, at: Maps, order: Order
) -> list[tuple[int, int, float]]:
    """Rank, multiply-adds and share of energy lost, from rank 1 to the last that is cheaper."""
    original = standard_cost(convolution, at).macs or 0
    lost = energy_lost(weight, order)
    points = []
    for rank in range(1, min(full_rank(convolution.kernel, order), HIGHEST) + 1):
        macs = Separate(order, rank).cost(convolution, at, bias=False).macs or 0
        if macs >= original:
            break
        points.append((rank, macs, lost[rank - 1]))
    return points


def energy_lost(weight: Tensor, order: Order) -> list[float]:
    """Share of the squared Frobenius norm of a kernel (N, M, kh, kw) that its per-channel SVD,
    truncated at rank 1, 2, ..., loses (Eckart and Young 1936)."""
    out_channels, in_channels, kh, kw = weight.shape
    kernel = weight.detach().double().reshape(out_channels, in_channels, kh * kw)
    matrices = kernel.transpose(0, 1) if order == "dw-pw" else kernel
    energies = torch.linalg.svdvals(matrices).square().sum(0)
    kept = energies.cumsum(0) / energies.sum().clamp_min(1e-300)
    return [max(0.0, 1 - float(share)) for share in kept]
