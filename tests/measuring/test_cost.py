from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from nets import Plain, images, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from sepify.errors import InputError
from sepify.measuring import count_macs
from sepify.measuring.cost import count_params, measure_cost, stored_size

MOBILENET_BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
MOBILENET_BLOCKS += [(1024, 2), (1024, 1)]


def mobilenet(separable: bool) -> nn.Sequential:
    """MobileNet v1 at width 1 (Howard et al. 2017, table 1), or its twin of standard convolutions,
    on the meta device."""

    def layers() -> Iterator[nn.Module]:
        yield from (nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        channels = 32
        for width, stride in MOBILENET_BLOCKS:
            if separable:
                yield nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
                yield from (nn.BatchNorm2d(channels), nn.ReLU())
                yield nn.Conv2d(channels, width, 1, bias=False)
            else:
                yield nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            yield from (nn.BatchNorm2d(width), nn.ReLU())
            channels = width
        yield from (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))

    with torch.device("meta"):
        return nn.Sequential(*layers()).eval()


@pytest.mark.parametrize(
    ("separable", "macs", "params"),
    [(True, 568_740_352, 4_231_976), (False, 4_867_293_184, 29_294_088)],
)
def test_mobilenet_costs_what_the_paper_says(separable: bool, macs: int, params: int) -> None:
    network = mobilenet(separable)
    x = torch.empty(2, 3, 224, 224, device="meta")
    assert count_macs(network, x) == macs
    assert count_params(network) == params


def test_macs_are_of_one_image_whatever_the_batch() -> None:
    network = seeded(Plain())
    analytic = 8 * 3 * 9 * 12 * 12 + 16 * 8 * 9 * 6 * 6 + 16 * 5
    for batch in (1, 3):
        assert count_macs(network, images(batch)) == analytic
    assert count_macs(network, images(2).to("meta")) == analytic  # real weights, meta input
    with torch.inference_mode():
        assert count_macs(network, images(2)) == analytic


def test_torchscript_costs_the_same_traced_scripted_and_frozen() -> None:
    network = seeded(Plain())
    analytic = count_macs(network, images(1))
    for script in (torch.jit.trace(network, images(1)), torch.jit.script(network)):
        assert count_macs(script, images(2)) == analytic
        assert count_params(script) == count_params(network)
        frozen = torch.jit.freeze(script)
        assert count_macs(frozen, images(2)) == analytic
        assert count_params(frozen) > 0  # constants of the graph: freezing folds the BatchNorms


def test_layers_and_their_macs() -> None:
    cost = measure_cost(seeded(Plain()), images(2))
    layers = {layer.name: layer for layer in cost.layers}
    assert list(layers) == ["conv1", "bn1", "conv2", "bn2", "head"]
    assert layers["conv1"].macs == 8 * 3 * 9 * 12 * 12
    assert layers["conv2"].output == (16, 6, 6)
    assert layers["conv2"].shape == (16, 8, 3, 3)
    assert layers["bn1"].macs == 0
    assert layers["bn1"].params == 16
    assert sum(layer.macs for layer in cost.layers) == cost.macs
    assert sum(layer.params for layer in cost.layers) == cost.params


class Shared(nn.Module):
    """One convolution called twice, and a functional one of the module around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.conv(self.conv(x)), self.weight)


def test_shared_layers_are_summed_and_functional_ones_belong_to_their_module() -> None:
    outer = nn.Sequential(Shared())
    cost = measure_cost(outer, torch.randn(1, 4, 5, 5))
    layers = {layer.name: layer for layer in cost.layers}
    assert layers["0.conv"].macs == 2 * 4 * 4 * 9 * 25
    assert layers["0"].macs == 4 * 4 * 25
    assert layers["0"].params == 16
    assert cost.macs == layers["0.conv"].macs + layers["0"].macs


def test_the_model_is_left_as_it_was() -> None:
    network = Plain().train()
    network.bn2.eval()
    state = copy.deepcopy(network.state_dict())
    count_macs(network, images(2))
    assert network.training
    assert network.bn1.training
    assert not network.bn2.training
    assert all(torch.equal(network.state_dict()[name], state[name]) for name in state)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in network.modules()
    )


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return self.linear(torch.cat(pair, 1)).mean(1)


class Tokens(nn.Module):
    """A class token, expanded to the batch and handed to a module."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x, self.token.expand(x.shape[0], -1, -1)))


def test_a_view_of_a_parameter_may_enter_a_module_and_gradients_stay_asked_for() -> None:
    network = seeded(Tokens())
    network.inner.linear.bias.requires_grad_(False)
    x = torch.randn(2, 3, 8, requires_grad=True)
    assert count_macs(network, x) == 4 * 8 * 8
    assert x.requires_grad
    asked = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert asked == ["token", "inner.linear.weight"]
    with pytest.raises(InputError):
        count_macs(network, torch.randn(2, 3, 9))
    assert network.token.requires_grad


def test_wrong_inputs_are_refused_and_leave_no_hooks() -> None:
    network = seeded(Plain())
    with pytest.raises(InputError, match=r"inputs of shape \(1, 4, 12, 12\)"):
        count_macs(network, torch.randn(1, 4, 12, 12))
    assert not any(module._forward_pre_hooks for module in network.modules())
    with pytest.raises(InputError, match="batch dimension"):
        count_macs(network, torch.tensor(1.0))
    with pytest.raises(InputError, match="one tensor or a tuple"):
        count_macs(network, ())


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(10_000))

    def forward(self, x: Tensor) -> object:
        return {"a": x, 1: self.weight}  # the tracer refuses a dictionary


def test_stored_size_says_as_what() -> None:
    size, kind = stored_size(seeded(Plain()), images(1))
    assert kind == "TorchScript file"
    assert size > 4 * count_params(Plain())
    size, kind = stored_size(Untraceable(), images(1))
    assert kind == "state_dict file"
    assert 40_000 < size < 50_000
