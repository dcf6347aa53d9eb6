"""quantize(): from any network to integers, and every refusal."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from nets import Plain, Residual, images, relative_error, seeded
from torch import Tensor, fx, nn
from torch.nn import functional as F

import sepify
from sepify.errors import CalibrationWarning, InputError, PlanError, UsageError
from sepify.formats.load import load_model
from sepify.graph.grids import quantising_nodes


class Mixed(nn.Module):
    """Max pooling, joined channels, a cut and padded shortcut, hard-swish, SE, grouped, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.down = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.first, self.last = nn.Linear(24 * 9, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        x = torch.cat([x, F.hardswish(self.grouped(x))], 1)
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = F.relu(self.down(x) + shortcut)
        return self.last(F.silu(self.first(x.flatten(1))))


@pytest.fixture(scope="module")
def mixed() -> tuple[nn.Module, fx.GraphModule]:
    torch.manual_seed(0)
    network = Mixed().eval()
    return network, sepify.quantize(network, calibration=images(128))


def error(made: nn.Module, given: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = given(x)
        return float((made(x) - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())


def test_every_layer_is_quantised_and_the_answers_stay(mixed):
    network, made = mixed
    record = made.meta["sepify"]
    assert [layer.precision for layer in record.layers] == ["int8"] * 7
    assert record.floating == ()
    assert error(made, network, images(64, seed=7)) < 5e-3
    assert record.fidelity.inputs == 16
    assert record.fidelity.sqnr > 25


def test_values_that_are_only_moved_stay_on_their_grid(mixed):
    _, made = mixed
    nodes = {node.name: node for node in made.graph.nodes}
    scales = {n: b for n, b in made.named_buffers() if n.endswith(".scale")}
    pooled, before = (scales[f"quantised_values.{name}.scale"] for name in ("max_pool2d", "relu"))
    assert torch.equal(pooled, before)
    flat = scales["quantised_values.flatten.scale"]
    assert torch.equal(flat.view(24, 9), flat.view(24, 9)[:, :1].expand(24, 9))
    assert "cat" in nodes


def test_it_is_a_graph_of_torchs_own_operators_in_every_form(mixed, tmp_path):
    _, made = mixed
    x = images(3, seed=5)
    with torch.no_grad():
        wanted = made(x)
        assert torch.equal(copy.deepcopy(made)(x), wanted)
        again = pickle.loads(pickle.dumps(made))
        assert torch.equal(again(x), wanted)
        sepify.save_model(made, tmp_path / "q.pt2", x)
        loaded = load_model(str(tmp_path / "q.pt2")).module
        torch.testing.assert_close(loaded(x), wanted)
    count = len(list(quantising_nodes(made.graph)))
    assert count == len(list(quantising_nodes(again.graph)))
    assert count == len(list(quantising_nodes(loaded.graph)))
    integers = [b for name, b in loaded.named_buffers() if b.dtype == torch.int8]
    assert len(integers) == 7


def test_a_converted_network_in_four_bits(tmp_path):
    network = seeded(Plain(12))
    small = sepify.convert(network, rank=2, calibration=images(128), keep=["conv1"])
    made = sepify.quantize(small, calibration=images(128), weights=4)
    found = {layer.name: layer for layer in made.meta["sepify"].layers}
    assert found["conv2.depthwise"].precision == "int8"
    assert found["conv2.pointwise"].precision == "W4A8"
    assert found["conv2.pointwise"].widened is not None
    assert made.get_buffer("conv2.pointwise.weight").abs().max() <= 7
    eight = sepify.quantize(small, calibration=images(128))
    x = images(64, seed=9)
    assert error(eight, small, x) < error(made, small, x) < 0.02


def test_each_step_of_the_recipe_helps():
    torch.manual_seed(1)
    network, x = Mixed().eval(), images(64, seed=3)
    with torch.no_grad():
        network.stem.weight[:4] *= 30  # channels of very different range
        network.grouped.weight[:, :] /= 30
    naive = sepify.Recipe(4, False, False, False, False, (0.0,))
    errors = [
        error(sepify.quantize(network, calibration=images(128), recipe=recipe), network, x)
        for recipe in (naive, sepify.Recipe(4, compensate=False, solve=False), sepify.Recipe(4))
    ]
    assert errors[0] > errors[1] > 1.2 * errors[2]


def test_the_given_network_is_untouched_and_residuals_are_summed_first():
    network = seeded(Residual())
    before = copy.deepcopy(network.state_dict())
    made = sepify.quantize(network, calibration=images(64))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    x = images(8, seed=3)
    assert relative_error(made(x), network(x)) < 0.05
    adds = [node for node in made.graph.nodes if "add" in str(node.target)]
    assert len(adds) == 1


@pytest.mark.parametrize(
    ("model", "calibration", "wrong"),
    [
        (seeded(Plain()), images(3), "3 calibration image.s. are too few"),
        (seeded(Plain()), images(16) * float("nan"), "NaN"),
        (seeded(Plain()), torch.zeros(0, 3, 12, 12), "empty"),
    ],
)
def test_images_that_are_no_use_are_refused(model, calibration, wrong):
    with pytest.raises(InputError, match=wrong):
        sepify.quantize(model, calibration=calibration)


def test_networks_that_cannot_be_quantised_are_refused(mixed):
    with pytest.raises(UsageError, match="quantised already"):
        sepify.quantize(mixed[1], calibration=images(64))
    with pytest.raises(UsageError, match="is float16: quantising starts from float32"):
        sepify.quantize(seeded(Plain()).half(), calibration=images(64).half())
    with pytest.raises(UsageError, match="weights of 5 bits"):
        sepify.quantize(seeded(Plain()), calibration=images(64), weights=5)
    with pytest.raises(PlanError, match="matches no layer"):
        sepify.quantize(seeded(Plain()), calibration=images(64), keep=["absent"])


def test_dead_channels_and_few_images_are_said():
    network = seeded(Plain())
    with torch.no_grad():
        network.bn1.weight[2], network.bn1.bias[2] = 0, -1
    with pytest.warns(CalibrationWarning) as told:
        made = sepify.quantize(network, calibration=images(32))
    said = " ".join(str(warning.message) for warning in told)
    assert "1 channel(s) of 1 activation(s)" in said
    assert "32 images to calibrate by are few" in said
    assert torch.isfinite(made(images())).all()
