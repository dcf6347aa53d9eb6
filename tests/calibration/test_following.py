"""Values of every kind that live across blocks, and what becomes of the refinement."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import images, network_of, seeded
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sepify.calibration.following import Counted, Images, Rows, Unknown, follow
from sepify.calibration.refine import Refinement
from sepify.calibration.solve import solve_on_data
from sepify.errors import CalibrationWarning
from sepify.graph.batches import calibration_batches
from sepify.planning.uniform import plan_uniform
from sepify.plans.file import plan_to_dict

STEPS = Refinement(steps=1, batch=4)


class Carrying(nn.Module):
    """Something is taken before the first convolution and used after the last, two blocks on."""

    def __init__(self, take: Callable[[Tensor], Any], use: Callable[[Tensor, Any], Any]) -> None:
        super().__init__()
        self.convs = nn.Sequential(*[nn.Conv2d(4, 4, 3, padding=1) for _ in range(9)])
        self.first = nn.Conv2d(3, 4, 1)
        self.register_buffer("table", torch.ones(1, 4, 1, 1))
        self.take, self.use = take, use

    def forward(self, x: Tensor) -> Any:
        value = self.take(x)
        return self.use(self.convs(self.first(x)), value)


class Facts(nn.Module):
    """A layer that is called as a whole and returns what no graph can follow."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"size": x.shape[2:], "name": "nearest", "bias": None, "up": True, "dtype": x.dtype}


facts = Facts()


def use_facts(y: Tensor, value: Any) -> Tensor:
    return F.interpolate(y, size=value["size"], mode=value["name"]).to(value["dtype"])


FOLLOWED = {
    "a size": (lambda x: x.shape[-2:], lambda y, v: F.interpolate(y, size=v)),
    "a whole shape": (lambda x: x.shape, lambda y, v: y.reshape(v[0], 4, v[2], v[3])),
    "a number of images": (lambda x: x.size(0), lambda y, v: y.reshape(v, -1)),
    "a number of values": (lambda x: x.numel(), lambda y, v: y.reshape(v // 3 * 4)),
    "a dtype and a device": (lambda x: (x.dtype, x.device), lambda y, v: y.to(v[1], v[0])),
    "a layer's dict": (facts, use_facts),
    "a tuple of maps": (lambda x: x.chunk(3, 1), lambda y, v: y + v[0] * v[2]),
    "an integer map": (lambda x: x.argmax(1, keepdim=True), lambda y, v: y * v),
    "a mask": (lambda x: x > 0, lambda y, v: y.masked_fill(v.all(1, keepdim=True), 0.0)),
    "a table": (lambda x: torch.arange(x.shape[3]), lambda y, v: y + v),
    "windows": (
        lambda x: x.reshape(-1, 3, 4, 8),
        lambda y, v: y + v.reshape(y.shape[0], 3, 8, 8)[:, :1],
    ),
    "images second": (
        lambda x: x.permute(2, 0, 1, 3),
        lambda y, v: y + v[:, :, :1].permute(1, 2, 0, 3),
    ),
    "a number for each image": (
        lambda x: x.mean((1, 2, 3)),
        lambda y, v: y * v[:, None, None, None],
    ),
    "maps and an integer out": (lambda x: x, lambda y, v: (y, y.argmax(1), v.shape)),
}
LEFT = {
    "the mean of a batch": (lambda x: x.mean(), lambda y, v: y * v, "mixes the images"),
    "the first image": (lambda x: x[:1], lambda y, v: y + v[:, :1], "mixes the images"),
    "images spread": (
        lambda x: x.transpose(0, 1).reshape(-1, 8, 8),
        lambda y, v: y + v.reshape(3, -1, 8, 8).transpose(0, 1)[:, :1],
        "mixes the images",
    ),
}


class Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        return isinstance(m, Facts) or super().is_leaf_module(m, name)


def graph_of(take: Callable[[Tensor], Any], use: Callable[[Tensor, Any], Any]) -> fx.GraphModule:
    network = seeded(Carrying(take, use))
    return fx.GraphModule(network, Tracer().trace(network))


def refined(graph: fx.GraphModule, batches: Any) -> Any:
    plan = plan_uniform(graph, (batches[0][0],), rank=1, allow_costlier=True)
    return solve_on_data(network_of(graph, batches), plan, refinement=STEPS)[1]


@pytest.mark.parametrize("kind", FOLLOWED)
def test_what_lives_across_blocks_stops_no_refinement(kind):
    batches = calibration_batches(images(18, size=8).split(7))  # 7, 7 and 4 images
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = refined(graph_of(*FOLLOWED[kind]), batches)
    assert len(plan.rewritten) == 9
    assert all(0 < decision.block_error < math.inf for decision in plan.rewritten)


@pytest.mark.parametrize("kind", LEFT)
def test_what_cannot_be_picked_image_by_image_is_said(kind):
    take, use, why = LEFT[kind]
    with pytest.warns(CalibrationWarning, match=f"convs.8: not refined, '.*' {why}"):
        plan = refined(graph_of(take, use), calibration_batches(images(18, size=8).split(7)))
    last = plan["convs.8"]
    assert last.block_error is None
    assert why in last.reason
    assert plan["convs.0"].block_error is None or plan["convs.0"].block_error > 0
    plan_to_dict(plan)


def test_images_of_different_sizes_and_batches_of_one_are_refined():
    graph = graph_of(*FOLLOWED["a size"])
    data = [*images(10, size=8).split(1), *images(9, size=12).split(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = refined(graph, calibration_batches(data))
    assert all(0 < decision.block_error < math.inf for decision in plan.rewritten)


def test_a_block_without_a_derivative_is_left_and_said():
    graph = graph_of(lambda x: x, lambda y, v: y.detach() + v[:, :1])
    with pytest.warns(
        CalibrationWarning, match=r"convs\.8: not refined, .* cannot be run backwards"
    ):
        plan = refined(graph, calibration_batches(images(18, size=8)))
    assert plan["convs.0"].block_error is not None
    assert plan["convs.8"].block_error is None


def test_probing_leaves_what_the_network_writes_as_it_was():
    class Counting(Carrying):
        def forward(self, x: Tensor) -> Any:
            self.table.add_(1)
            return super().forward(x)

    network = seeded(Counting(lambda x: x.shape[-2:], lambda y, v: F.interpolate(y, size=v)))
    tracer = Tracer()
    tracer.proxy_buffer_attributes = True
    graph = fx.GraphModule(network, tracer.trace(network))
    before = graph.table.clone()
    follow(graph, calibration_batches(images(18, size=8)), ["convs.0"])
    assert torch.equal(graph.table, before)


def test_rules_say_what_a_value_is_for_a_few_of_the_images():
    graph = graph_of(lambda x: x.reshape(-1, 3, 4, 8) * 1, lambda y, v: y.sum() + v)
    batches = calibration_batches(images(10, size=8).split(5))
    _, following = follow(graph, batches, [f"convs.{i}" for i in range(9)])
    rules = {node.name: rule for node, (rule,) in following.rules[0].items()}
    assert (rules["x"], rules["convs_7"], rules["mul"]) == (Rows(0, 1), Rows(0, 1), Rows(0, 2))
    assert rules["add"] == Unknown("mixes the images of a batch")
    node = next(node for node in following.rules[0] if node.name == "mul")
    every = images(10, size=8).reshape(20, 3, 4, 8)
    values = [{node: rows} for rows in every.split(10)]
    picked = Images(following, values, [node]).pick(torch.tensor([6, 0, 9]))[node]
    assert torch.equal(picked, every[[12, 13, 0, 1, 18, 19]])


def test_numbers_grow_with_the_images():
    assert Counted(torch.Size([2, 3, 8]), (1, 0, 0)).of(7) == torch.Size([7, 3, 8])
    assert Counted((4, 9), (2, 0)).of(5) == (10, 9)
    assert Counted(128, 64).of(5) == 320
